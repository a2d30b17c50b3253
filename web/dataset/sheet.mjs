/** The contact sheet: thumbnails with captions. However many there are, only what is near the view is made. */
import { Tiles } from '../figure/tiles.mjs'
import { el, fill } from '../lib/dom.mjs'

/** @typedef {import('./view.mjs').Picture} Picture */

const AT_ONCE = 300
const TILE = 168

export class Sheet {
  /** @type {Picture[]} */
  #images = []
  /** @type {HTMLButtonElement[]} */
  #buttons = []

  /**
   * @param {(image: Picture, size: number) => string} urlOf
   * @param {(at: number) => void} onPick
   * @param {(image: Picture) => boolean} isUnsaved
   */
  constructor(urlOf, onPick, isUnsaved) {
    this.onPick = onPick
    this.isUnsaved = isUnsaved
    this.list = el('div', { class: 'mj-sheet', role: 'listbox', ariaLabel: 'Images' })
    this.end = el('div', { class: 'mj-sheet-end' })
    this.element = el('div', { class: 'mj-scroller', onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) }, this.list, this.end)
    this.tiles = new Tiles(this.element, (at, size) => urlOf(this.#images[Number(at)], size))
    this.tiles.resize(TILE)
    this.more = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.#grow(), {
      root: this.element,
      rootMargin: '1000px',
    })
  }

  /** @param {Picture[]} images */
  show(images) {
    this.#images = images
    this.#buttons = []
    this.tiles.clear()
    this.more.disconnect()
    fill(this.list)
    fill(this.end, images.length ? null : el('p', { class: 'mj-hint' }, 'No image is like that.'))
    this.element.scrollTop = 0
    this.#grow()
    this.more.observe(this.end)
  }

  /** @param {number} at */
  focus(at = 0) {
    while (at >= this.#buttons.length && this.#buttons.length < this.#images.length) this.#grow()
    const button = this.#buttons[at]
    if (!button) return
    for (const other of this.#buttons) if (other.tabIndex === 0) other.tabIndex = -1
    button.tabIndex = 0
    button.focus()
  }

  destroy() {
    this.tiles.clear()
    this.more.disconnect()
  }

  #grow() {
    const from = this.#buttons.length
    const made = this.#images.slice(from, from + AT_ONCE).map((image, number) => this.#sample(image, from + number))
    this.#buttons.push(...made)
    this.list.append(...made)
    if (!from && made.length) made[0].tabIndex = 0
  }

  /**
   * @param {Picture} image
   * @param {number} at
   */
  #sample(image, at) {
    const picture = el('img', { alt: '', decoding: 'async', draggable: false })
    const badges = [
      this.isUnsaved(image) && el('span', { class: 'mj-badge mj-warns' }, 'not saved'),
      image.problems && el('span', { class: 'mj-badge mj-warns', title: image.problems.join('\n') }, '⚠'),
      image.repeats > 1 && el('span', { class: 'mj-badge', title: 'times an epoch' }, `×${image.repeats}`),
      image.regularisation && el('span', { class: 'mj-badge' }, 'regularisation'),
    ]
    const words = image.caption || el('em', { class: 'mj-hint' }, 'no caption')
    const button = el(
      'button',
      { class: 'mj-sample', type: 'button', role: 'option', tabIndex: -1, title: image.name, ariaLabel: image.name, onclick: () => this.onPick(at) },
      picture,
      el('span', { class: 'mj-badges' }, ...badges),
      el('span', { class: 'mj-words' }, words)
    )
    button.dataset.at = String(at)
    this.tiles.add(picture, String(at))
    return button
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!(event.target instanceof HTMLButtonElement) || event.target.dataset.at === undefined) return
    const columns = getComputedStyle(this.list).gridTemplateColumns.split(' ').length
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }
    const step = steps[/** @type {keyof typeof steps} */ (event.key)]
    if (step === undefined) return
    event.preventDefault()
    this.focus(Number(event.target.dataset.at) + step)
  }
}
