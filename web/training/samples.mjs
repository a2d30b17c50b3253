/** The sample images of a run, the newest first; a click enlarges one, and the arrow keys go on to the others. */
import { openDialog } from '../lib/dialog.mjs'
import { el, fill } from '../lib/dom.mjs'
import { keyOf } from './runs.mjs'

/** @typedef {import('./runs.mjs').Sample} Sample */
/** @typedef {(sample: Sample) => string} UrlOf */

const MOST_SHOWN = 48

/** @param {Sample} sample */
export function nameOf(sample) {
  return sample.prompt ? `step ${sample.step}: ${sample.prompt}` : `step ${sample.step}`
}

export class SampleStrip {
  /** @type {Map<string, HTMLButtonElement>} those that are shown: an image is not fetched twice */
  #tiles = new Map()
  /** @type {Sample[]} */
  #samples = []

  /** @param {UrlOf} urlOf */
  constructor(urlOf) {
    this.urlOf = urlOf
    this.element = el('div', { class: 'mj-run-samples', hidden: true })
  }

  /** @param {Sample[]} samples in the order of their steps */
  show(samples) {
    const newest = samples.slice(-MOST_SHOWN).reverse()
    this.element.hidden = !newest.length
    this.#samples = samples
    const keys = newest.map(keyOf)
    if (keys.join('\n') === [...this.#tiles.keys()].join('\n')) return
    this.#tiles = new Map(newest.map((sample, at) => [keys[at], this.#tiles.get(keys[at]) ?? this.#tile(sample)]))
    fill(this.element, ...this.#tiles.values())
  }

  /** Forgets the images, which are those of another run. */
  clear() {
    this.#tiles.clear()
    this.show([])
  }

  /** @param {Sample} sample */
  #tile(sample) {
    const name = nameOf(sample)
    const image = el('img', { src: this.urlOf(sample), alt: name, loading: 'lazy', decoding: 'async' })
    const open = () => openSample(this.#samples, this.#samples.findIndex((each) => keyOf(each) === keyOf(sample)), this.urlOf)
    return el('button', { class: 'mj-run-sample', type: 'button', title: name, onclick: open }, image, el('span', {}, String(sample.step)))
  }
}

/**
 * @param {Sample[]} samples
 * @param {number} first the one that is shown
 * @param {UrlOf} urlOf
 */
function openSample(samples, first, urlOf) {
  let at = first
  const image = el('img', {})
  const caption = el('figcaption', {})
  const turn = (/** @type {number} */ by) => {
    at = Math.min(samples.length - 1, Math.max(0, at + by))
    image.src = urlOf(samples[at])
    image.alt = caption.textContent = nameOf(samples[at])
    earlier.disabled = at === 0
    later.disabled = at === samples.length - 1
  }
  const earlier = el('button', { class: 'mj-button', type: 'button', title: 'Earlier (←)', onclick: () => turn(-1) }, '←')
  const later = el('button', { class: 'mj-button', type: 'button', title: 'Later (→)', onclick: () => turn(1) }, '→')
  const figure = el('figure', { class: 'mj-run-sample-view' }, image, caption)
  const dialog = openDialog('Sample image', [earlier, later], figure)
  dialog.addEventListener('keydown', ({ key }) => {
    if (key === 'ArrowLeft') turn(-1)
    if (key === 'ArrowRight') turn(1)
  })
  turn(0)
}
