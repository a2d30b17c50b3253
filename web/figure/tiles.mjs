/** Images that are fetched only once they come into view, at the size at which they are shown. */

const SIZES = [64, 128, 256, 512, 1024]

/**
 * @param {number} pixels width on the screen, in device pixels
 * @returns {number} the smallest size that the server makes and that is sharp there
 */
export function tileSize(pixels) {
  return SIZES.find((size) => size >= pixels) ?? SIZES[SIZES.length - 1]
}

export class Tiles {
  /** @type {Map<Element, string>} */
  #keys = new Map()
  /** @type {Set<HTMLImageElement>} */
  #visible = new Set()
  #size = 128

  /**
   * @param {Element} scroller what the tiles scroll in
   * @param {(key: string, size: number) => string} urlOf
   */
  constructor(scroller, urlOf) {
    this.urlOf = urlOf
    this.observer = new IntersectionObserver((entries) => this.#seen(entries), { root: scroller, rootMargin: '200px' })
  }

  /**
   * @param {HTMLImageElement} image
   * @param {string} key the cell's
   */
  add(image, key) {
    this.#keys.set(image, key)
    this.observer.observe(image)
  }

  clear() {
    this.observer.disconnect()
    this.#keys.clear()
    this.#visible.clear()
  }

  /** @param {number} width of a tile in CSS pixels */
  resize(width) {
    const size = tileSize(width * (globalThis.devicePixelRatio || 1))
    if (size === this.#size) return
    this.#size = size
    this.#visible.forEach((image) => this.#fetch(image))
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const image = /** @type {HTMLImageElement} */ (target)
      if (!isIntersecting) this.#visible.delete(image)
      else {
        this.#visible.add(image)
        this.#fetch(image)
      }
    }
  }

  /** @param {HTMLImageElement} image */
  #fetch(image) {
    const url = this.urlOf(this.#keys.get(image) ?? '', this.#size)
    if (image.getAttribute('src') !== url) image.src = url
  }
}
