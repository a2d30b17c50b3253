/** How far two pictures are apart, pixel by pixel. */

/**
 * Draws |A − B| of each channel, times `gain`.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {string} firstUrl
 * @param {string} secondUrl
 * @param {number} gain
 * @returns {Promise<string>} a sentence with the mean and the largest difference, of 255
 */
export async function differenceOf(canvas, firstUrl, secondUrl, gain) {
  const [first, second] = await Promise.all([pixelsOf(firstUrl), pixelsOf(secondUrl)])
  if (first.width !== second.width || first.height !== second.height) {
    throw new Error(`The cells differ in size: ${first.width}×${first.height} and ${second.width}×${second.height}.`)
  }
  const { data, mean, most } = difference(first.data, second.data, gain)
  canvas.width = first.width
  canvas.height = first.height
  canvas.getContext('2d')?.putImageData(new ImageData(data, first.width, first.height), 0, 0)
  return most === 0 ? 'The cells are identical.' : `Mean difference ${mean.toFixed(2)}, largest ${most}, of 255.`
}

/**
 * @param {Uint8ClampedArray} first RGBA
 * @param {Uint8ClampedArray} second RGBA, as long
 * @param {number} gain
 */
export function difference(first, second, gain) {
  const data = new Uint8ClampedArray(first.length)
  let sum = 0
  let most = 0
  for (let at = 0; at < first.length; at++) {
    if (at % 4 === 3) {
      data[at] = 255
      continue
    }
    const apart = Math.abs(first[at] - second[at])
    sum += apart
    most = Math.max(most, apart)
    data[at] = apart * gain
  }
  return { data, mean: sum / ((first.length / 4) * 3), most }
}

/** @param {string} url */
async function pixelsOf(url) {
  const image = new Image()
  image.src = url
  await image.decode()
  const canvas = document.createElement('canvas')
  canvas.width = image.naturalWidth
  canvas.height = image.naturalHeight
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d', { willReadFrequently: true }))
  context.drawImage(image, 0, 0)
  return context.getImageData(0, 0, canvas.width, canvas.height)
}
