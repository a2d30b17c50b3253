/** The tab Training of the bottom panel: all runs, and the chosen one. */
import { el, fill } from '../lib/dom.mjs'
import { store, urlOf } from './live.mjs'
import { RunPanel } from './panel.mjs'
import { dateOf, stateOf } from './telling.mjs'

/** @typedef {import('./runs.mjs').Run} Run */

class TrainingTab {
  /** @type {string | null} the run that the user chose; without one, the first is shown */
  #chosen = null
  /** @type {Map<string, Entry>} */
  #entries = new Map()

  constructor() {
    this.panel = new RunPanel(store, urlOf)
    this.filter = el('input', { class: 'mj-input', type: 'search', placeholder: 'filter', ariaLabel: 'Filter runs', oninput: () => this.#narrow() })
    this.list = el('div', {})
    this.older = el('p', { class: 'mj-hint' })
    const runs = el('nav', { class: 'mj-runs', ariaLabel: 'Training runs' }, this.filter, this.list, this.older)
    this.empty = el('p', { class: 'mj-hint mj-runs-empty' }, 'No run yet: queue a graph with Train SDXL LoRA.')
    this.element = el('div', { class: 'mj-training-tab' }, runs, this.panel.element)
    this.unlisten = store.listen(() => this.#update())
    this.#update()
  }

  destroy() {
    this.unlisten()
    this.panel.destroy()
    this.element.remove()
  }

  #update() {
    const runs = store.runs
    const ids = runs.map(({ id }) => id)
    if (ids.join() !== [...this.#entries.keys()].join()) {
      this.#entries = new Map(ids.map((id) => [id, this.#entries.get(id) ?? new Entry(() => this.#choose(id))]))
      fill(this.list, ...(ids.length ? [...this.#entries.values()].map(({ element }) => element) : [this.empty]))
    }
    const chosen = runs.find(({ id }) => id === this.#chosen) ?? runs[0]
    runs.forEach((run) => this.#entries.get(run.id)?.show(run, run === chosen))
    fill(this.older, store.older > 0 && `and ${store.older} older, which their own nodes still show`)
    this.#narrow()
    this.panel.show(chosen?.id ?? null)
  }

  #narrow() {
    const wanted = this.filter.value.toLowerCase()
    for (const { element } of this.#entries.values()) element.hidden = !(element.textContent ?? '').toLowerCase().includes(wanted)
  }

  /** @param {string} id */
  #choose(id) {
    this.#chosen = id
    this.#update()
  }
}

/** One run in the list. */
class Entry {
  #told = ''

  /** @param {() => void} onChoose */
  constructor(onChoose) {
    this.element = el('button', { class: 'mj-runs-entry', type: 'button', onclick: onChoose })
  }

  /**
   * @param {Run} run
   * @param {boolean} chosen
   */
  show(run, chosen) {
    const lines = [run.name || run.id, `${stateOf(run)}, step ${run.step} of ${run.steps || '–'}`, dateOf(run.time)]
    const told = `${chosen} ${run.state} ${lines.join('\n')}`
    if (told === this.#told) return
    this.#told = told
    this.element.dataset.state = run.state
    this.element.ariaPressed = String(chosen)
    fill(this.element, el('strong', { title: lines[0] }, lines[0]), el('span', {}, lines[1]), el('small', {}, lines[2]))
  }
}

/** @type {TrainingTab | null} */
let open = null

export const trainingTab = {
  id: 'mjesec-training',
  title: 'Training',
  type: 'custom',
  /** @param {HTMLElement} place the editor may call this again for the same one */
  render(place) {
    if (open && place.contains(open.element)) return
    open?.destroy()
    open = new TrainingTab()
    place.classList.add('mj-tab-place')
    place.replaceChildren(open.element)
  },
  destroy() {
    open?.destroy()
    open = null
  },
}
