/** The dataset preview: a dialog with contact sheet, buckets and problems, from which captions are edited. */
import { failure, openDialog } from '../lib/dialog.mjs'
import { definitions, el, fill } from '../lib/dom.mjs'
import { CaptionView } from './caption.mjs'
import { draftOf } from './drafts.mjs'
import { Sheet } from './sheet.mjs'
import { sideView } from './side.mjs'
import { filtered, totalsTold } from './view.mjs'

/**
 * @typedef {import('./view.mjs').Picture} Picture
 * @typedef {import('./view.mjs').View} View
 */

const ASK_AGAIN_MS = 300

/**
 * @param {import('../lib/routes.mjs').Routes} routes
 * @param {import('./view.mjs').Source} source
 * @param {import('./settings.mjs').BucketChoice} choice
 */
export async function openPreview(routes, source, choice) {
  const body = el('div', { class: 'mj-viewer' }, el('p', { class: 'mj-hint mj-bar', role: 'status' }, 'reading the images …'))
  const dialog = openDialog('Dataset', [el('span', { class: 'mj-hint mj-grows' }, source.title)], body)
  try {
    const view = await viewOf(routes, source, dialog, (text) => fill(body, el('p', { class: 'mj-hint mj-bar', role: 'status' }, text)))
    if (!view || !dialog.open) return
    // an edited folder is opened by another id: what was typed and not saved belongs to the folder
    const preview = new Preview(routes, view, String(source.query?.folder ?? view.id), choice)
    dialog.addEventListener('close', () => preview.destroy())
    fill(body, preview.element)
    preview.start()
  } catch (error) {
    fill(body, failure(error))
  }
}

/**
 * @param {import('../lib/routes.mjs').Routes} routes
 * @param {import('./view.mjs').Source} source
 * @param {HTMLDialogElement} dialog
 * @param {(text: string) => void} tell
 * @returns {Promise<View | null>} null once the dialog is closed
 */
async function viewOf(routes, source, dialog, tell) {
  if (!source.query && !source.id) throw new Error('Queue the graph first: this node makes its images only when it runs.')
  if (!source.query) return routes.get(['datasets', String(source.id)])
  while (dialog.open) {
    const view = await routes.get(['datasets'], source.query)
    if (!view.reading) return view
    const [done, of] = view.reading
    tell(of ? `reading the images: ${done} of ${of}` : 'reading the images …')
    await new Promise((resolve) => { setTimeout(resolve, ASK_AGAIN_MS) })
  }
  return null
}

class Preview {
  /**
   * @param {import('../lib/routes.mjs').Routes} routes
   * @param {View} view
   * @param {string} place names what is looked at
   * @param {import('./settings.mjs').BucketChoice} choice
   */
  constructor(routes, view, place, choice) {
    this.routes = routes
    this.view = view
    this.place = place
    /** @type {Picture[]} */
    this.shown = view.images
    this.search = el('input', { class: 'mj-input mj-grows mj-search', type: 'search', placeholder: 'words in caption or name', ariaLabel: 'Search', oninput: () => this.#filter() })
    this.onlyProblems = el('input', { type: 'checkbox', onchange: () => this.#filter() })
    this.onlyUnsaved = el('input', { type: 'checkbox', onchange: () => this.#filter() })
    this.totals = el('div', {}, definitions(totalsTold(view.totals)))
    this.count = el('span', { class: 'mj-hint', role: 'status' })
    this.sheet = new Sheet(this.#urlOf, (at) => this.#edit(at), this.#isUnsaved)
    const only = (/** @type {HTMLInputElement} */ box, /** @type {string} */ text) => el('label', { class: 'mj-line' }, box, text)
    const filters = [only(this.onlyProblems, ' only with problems'), only(this.onlyUnsaved, ' only not saved')]
    const bar = el('div', { class: 'mj-bar' }, this.search, ...filters, this.count)
    const getBuckets = (/** @type {number} */ side) => routes.get(['datasets', view.id, 'buckets'], { ...choice.choices, resolution: side })
    this.all = el('div', { class: 'mj-split' }, el('div', { class: 'mj-main' }, bar, this.sheet.element), sideView(view, choice, getBuckets, this.totals))
    this.element = el('div', { class: 'mj-viewer' }, this.all)
  }

  /** Once it is on the page, and so has a size. */
  start() {
    this.#filter()
    this.sheet.focus()
  }

  destroy() {
    this.sheet.destroy()
  }

  #urlOf = (/** @type {Picture} */ image, /** @type {number} */ size) =>
    this.routes.url(['datasets', this.view.id, 'image'], { name: image.name, size, v: image.version })

  #isUnsaved = (/** @type {Picture} */ image) => draftOf(this.place, image.name) !== undefined

  #filter() {
    const found = filtered(this.view.images, this.search.value, this.onlyProblems.checked)
    this.shown = this.onlyUnsaved.checked ? found.filter(this.#isUnsaved) : found
    fill(this.count, `${this.shown.length} of ${this.view.images.length} images`)
    this.sheet.show(this.shown)
  }

  /** @param {number} at */
  #edit(at) {
    const place = ['datasets', this.view.id, 'caption']
    const store = {
      read: (/** @type {string} */ name) => this.routes.get(place, { name }),
      write: (/** @type {string} */ name, /** @type {string} */ text, /** @type {string} */ version) => this.routes.post(place, { name, text, version }),
    }
    // a list of its own: what is saved must not take its image out of the filter's list while somebody goes through it
    const images = [...this.shown]
    const onBack = (/** @type {number} */ last) => {
      this.element.replaceChildren(this.all)
      this.#filter()
      this.sheet.focus(Math.max(0, this.shown.indexOf(images[last])))
    }
    const onWritten = (/** @type {import('./caption.mjs').Written} */ { changed, totals }) => {
      changed.forEach((image) => this.#changed(image, images))
      fill(this.totals, definitions(totalsTold(totals)))
    }
    const editor = new CaptionView(this.place, images, store, this.#urlOf, { onBack, onWritten })
    this.element.replaceChildren(editor.element)
    editor.text.focus()
    editor.show(at)
  }

  /**
   * @param {Picture} image as it now is
   * @param {Picture[]} gone the list that is gone through
   */
  #changed(image, gone) {
    for (const list of [this.view.images, gone]) {
      const at = list.findIndex((other) => other.name === image.name)
      if (at >= 0) list[at] = image
    }
  }
}
