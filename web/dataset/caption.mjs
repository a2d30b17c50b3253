/** The caption editor: one image, large, and its caption as it lies on disk. */
import { failure } from '../lib/dialog.mjs'
import { el, fill } from '../lib/dom.mjs'
import { draftOf, keepDraft } from './drafts.mjs'

/**
 * @typedef {import('./view.mjs').Picture} Picture
 * @typedef {{ file: string, text: string, version: string, earlier: string[], used: string, reason: string }} Caption
 * @typedef {Caption & { changed: Picture[], totals: import('./view.mjs').Totals }} Written all images that it belongs to, and the dataset's totals
 * @typedef {{ read: (name: string) => Promise<Caption>, write: (name: string, text: string, version: string) => Promise<Written> }} Store
 */

const KEYS = 'Ctrl+Enter saves and goes to the next image. Page Up and Page Down go to another one, and so do arrow keys outside the text. Esc closes.'

// a note of its own says so
const MISSING = 'Captions missing'

export class CaptionView {
  /** @type {Caption | null} */
  #caption = null
  #asked = 0
  #back = 0
  #saving = false

  /**
   * @param {string} place names the dataset
   * @param {Picture[]} images those that can be gone through
   * @param {Store} store
   * @param {(image: Picture, size: number) => string} urlOf
   * @param {{ onBack: (at: number) => void, onWritten: (written: Written) => void }} callbacks
   */
  constructor(place, images, store, urlOf, { onBack, onWritten }) {
    this.place = place
    this.images = images
    this.store = store
    this.urlOf = urlOf
    this.onWritten = onWritten
    this.at = 0
    this.where = el('span', { class: 'mj-hint', role: 'status' })
    this.picture = el('img', { alt: '', draggable: false })
    this.facts = el('p', { class: 'mj-hint' })
    this.text = el('textarea', { class: 'mj-input mj-caption', ariaLabel: 'Caption', spellcheck: false, oninput: () => this.#typed() })
    this.notes = el('div', { class: 'mj-notes' })
    this.state = el('span', { class: 'mj-hint', role: 'status' })
    this.save = button('Save', () => this.#save(false), 'mj-strong')
    this.undo = button('Previous text', () => this.#earlier())
    const bar = el('div', { class: 'mj-bar' }, button('← all images', () => onBack(this.at)), button('‹', () => this.go(-1), '', 'Previous image'), button('›', () => this.go(1), '', 'Next image'), this.where)
    const side = el('aside', { class: 'mj-side mj-wide' }, this.facts, this.text, el('div', { class: 'mj-bar' }, this.save, this.undo, this.state), this.notes, el('p', { class: 'mj-hint' }, KEYS))
    const main = el('div', { class: 'mj-main' }, bar, el('div', { class: 'mj-large', tabIndex: 0, ariaLabel: 'Image' }, this.picture))
    this.element = el('div', { class: 'mj-split', onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) }, main, side)
  }

  /** @param {number} at */
  async show(at) {
    this.at = at
    const image = this.images[at]
    const mine = ++this.#asked
    this.#caption = null
    fill(this.where, `${at + 1} of ${this.images.length}`)
    fill(this.facts, el('strong', {}, image.name), el('br'), `${image.size.join(' × ')} pixels, ${image.repeats} × an epoch`)
    this.picture.src = this.urlOf(image, 1024)
    Object.assign(this.text, { value: '', readOnly: true })
    fill(this.notes)
    fill(this.state, 'loading …')
    this.save.disabled = this.undo.disabled = true
    try {
      const caption = await this.store.read(image.name)
      if (mine === this.#asked) this.#open(caption, draftOf(this.place, image.name))
    } catch (error) {
      if (mine === this.#asked) this.#fail(error)
    }
  }

  /** @param {number} step */
  go(step) {
    const at = this.at + step
    if (at >= 0 && at < this.images.length) this.show(at)
  }

  /**
   * @param {Caption} caption
   * @param {{ text: string, version: string }} [draft]
   */
  #open(caption, draft) {
    this.#take(caption)
    // a draft was typed over the text that it knew: that is what saving must still find
    if (this.#caption && draft) this.#caption.version = draft.version
    Object.assign(this.text, { value: draft?.text ?? caption.text, readOnly: Boolean(caption.reason) })
    this.#tell()
    if (document.activeElement !== this.text && !this.element.contains(document.activeElement)) this.text.focus()
  }

  /** @param {Caption} caption as it is on disk now */
  #take(caption) {
    // a text area knows no other line breaks than these
    this.#caption = { ...caption, text: caption.text.replace(/\r\n?/g, '\n') }
    this.#back = 0
  }

  get #dirty() {
    return this.#caption !== null && !this.#caption.reason && this.text.value !== this.#caption.text
  }

  #typed() {
    const draft = this.#caption && this.#dirty ? { text: this.text.value, version: this.#caption.version } : null
    keepDraft(this.place, this.images[this.at].name, draft)
    this.#tell()
  }

  #tell() {
    const caption = this.#caption
    if (!caption) return
    this.save.disabled = !this.#dirty
    this.undo.disabled = Boolean(caption.reason) || this.#back >= caption.earlier.length
    fill(this.state, this.#dirty ? 'not saved' : '')
    const lines = this.text.value.trimEnd().split(/\r?\n/).length
    const problems = this.images[this.at].problems?.filter((problem) => !problem.startsWith(MISSING)) ?? []
    fill(
      this.notes,
      caption.reason && el('p', { class: 'mj-hint' }, caption.reason),
      !caption.reason && !caption.version && el('p', { class: 'mj-hint' }, caption.used ? `There is no caption file; “${caption.used}” is used.` : 'There is no caption file yet.'),
      lines > 1 && el('p', { class: 'mj-hint' }, 'Only the first line is trained on.'),
      problems.length > 0 && el('ul', { class: 'mj-problems' }, ...problems.map((problem) => el('li', {}, problem)))
    )
  }

  /** @param {boolean} goOn */
  async #save(goOn) {
    const caption = this.#caption
    if (this.#saving) return
    if (!caption || !this.#dirty) return goOn && this.go(1)
    const { name } = this.images[this.at]
    const [text, mine] = [this.text.value, this.#asked]
    this.#saving = this.save.disabled = true
    fill(this.state, 'saving …')
    try {
      const written = await this.store.write(name, text, caption.version)
      // whoever types on while it is saved goes on over what was saved
      const draft = draftOf(this.place, name)
      keepDraft(this.place, name, draft && draft.text !== text ? { ...draft, version: written.version } : null)
      this.onWritten(written)
      // gone to another image; or there and back, where the version of before is shown
      if (mine !== this.#asked) return this.images[this.at].name === name ? this.show(this.at) : undefined
      this.#take(written)
      this.#typed()
      if (this.#dirty) return
      if (goOn && this.at + 1 < this.images.length) return this.go(1)
      fill(this.state, 'saved')
    } catch (error) {
      if (mine === this.#asked) await this.#refused(error, name)
    } finally {
      this.#saving = false
    }
  }

  /**
   * @param {unknown} error
   * @param {string} name
   */
  async #refused(error, name) {
    this.#fail(error)
    this.save.disabled = false
    const mine = this.#asked
    const now = await this.store.read(name).catch(() => null)
    const caption = this.#caption
    if (!now || !caption || now.version === caption.version || mine !== this.#asked) return
    const take = button('Take the text on disk', () => {
      keepDraft(this.place, name, null)
      this.#open(now)
    })
    const overwrite = button('Save mine over it', () => {
      this.#take(now)
      this.#typed()
      this.#save(false)
    })
    this.notes.append(el('p', {}, 'On disk now:'), el('blockquote', { class: 'mj-quote' }, now.version ? now.text : 'no file'), el('div', { class: 'mj-bar' }, take, overwrite))
  }

  /** Puts the text before the present one into the field; pressed again, the one before that. */
  #earlier() {
    const text = this.#caption?.earlier[this.#back]
    if (text === undefined) return
    this.#back += 1
    this.text.value = text
    this.#typed()
  }

  /** @param {unknown} error */
  #fail(error) {
    fill(this.state)
    fill(this.notes, failure(error))
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const inText = event.target === this.text
    const step = { PageUp: -1, PageDown: 1, ...(inText ? {} : { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }) }[event.key]
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.#save(true)
    else if (step) this.go(step)
    else return
    event.preventDefault()
  }
}

/**
 * @param {string} text
 * @param {() => void} onclick
 * @param {string} [classes]
 * @param {string} [title]
 */
function button(text, onclick, classes = '', title = '') {
  return el('button', { class: `mj-button ${classes}`, type: 'button', onclick, title, ...(title && { ariaLabel: title }) }, text)
}
