"""What a folder of images holds: pictures, captions, masks and sizes as frozen values, and what is wrong with them."""
