/** The buttons of a run. Each can be pressed only when it makes sense; what the server refuses is told in its words. */
import { el } from '../lib/dom.mjs'
import { buttonsOf, WISHES } from './telling.mjs'

/** @typedef {import('./runs.mjs').Run} Run */

export class Controls {
  /** @type {Map<string, HTMLButtonElement>} */
  #buttons
  /** @type {Run | undefined} */
  #run
  #connected = true
  #asking = false

  /** @param {import('./runs.mjs').RunStore} store */
  constructor(store) {
    this.store = store
    this.#buttons = new Map(
      WISHES.map(([wish, label, title]) => [wish, el('button', { class: 'mj-button', type: 'button', title, onclick: () => this.#ask(wish) }, label)])
    )
    this.refusal = el('p', { class: 'mj-refusal', role: 'alert', hidden: true })
    this.element = el('div', { class: 'mj-controls' }, ...this.#buttons.values())
  }

  /**
   * @param {Run} run
   * @param {boolean} connected
   */
  show(run, connected) {
    if (run.id !== this.#run?.id || run.wishes.join() !== this.#run.wishes.join()) this.#refuse('')
    this.#run = run
    this.#connected = connected
    this.#enable()
  }

  #enable() {
    const run = /** @type {Run} */ (this.#run)
    const shown = new Set(buttonsOf(run).map(([wish]) => /** @type {string} */ (wish)))
    for (const [wish, button] of this.#buttons) {
      button.hidden = !shown.has(wish)
      button.disabled = this.#asking || !this.#connected || !run.wishes.includes(wish)
    }
  }

  /** @param {string} wish */
  async #ask(wish) {
    const run = /** @type {Run} */ (this.#run)
    this.#asking = true
    this.#enable()
    this.#refuse('')
    try {
      await this.store.ask(run.id, wish)
    } catch (error) {
      this.#refuse(error instanceof Error ? error.message : String(error))
    } finally {
      this.#asking = false
      this.#enable()
    }
  }

  /** @param {string} sentence */
  #refuse(sentence) {
    this.refusal.textContent = sentence
    this.refusal.hidden = !sentence
  }
}
