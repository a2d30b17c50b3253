/** One run as it stands: state, numbers, buttons, chart, sample images. It is drawn at most once a frame, if at all. */
import { el, fill } from '../lib/dom.mjs'
import { LossChart } from './chart.mjs'
import { Controls } from './controls.mjs'
import { SampleStrip } from './samples.mjs'
import { factsOf, lineOf, progressOf, stateOf } from './telling.mjs'

/** @typedef {import('./runs.mjs').Run} Run */

const NO_RUN = 'Queue the graph: its training is shown here as it goes, and can be paused, stopped and saved.'
const NO_CONNECTION = 'ComfyUI does not answer. This is how the run stood when it last did.'

export class RunPanel {
  /** @type {string | null} the run's id */
  #id = null
  #unwatch = () => {}
  #due = false
  #visible = false
  /** @type {Map<string, HTMLElement>} */
  #facts = new Map()

  /**
   * @param {import('./runs.mjs').RunStore} store
   * @param {import('./samples.mjs').UrlOf} urlOf
   */
  constructor(store, urlOf) {
    this.store = store
    this.controls = new Controls(store)
    this.chart = new LossChart()
    this.samples = new SampleStrip(urlOf)
    this.name = el('strong', { class: 'mj-run-name' })
    this.state = el('span', { class: 'mj-run-state' })
    this.bar = el('progress', { class: 'mj-run-bar', max: 1, ariaLabel: 'Progress of the training' })
    this.facts = el('dl', { class: 'mj-run-facts' })
    this.line = el('p', { class: 'mj-run-line' })
    this.hint = el('p', { class: 'mj-hint mj-run-hint' })
    const head = el('div', { class: 'mj-run-head' }, this.name, this.state)
    const told = el('div', { class: 'mj-run-told' }, head, this.bar, this.facts, this.controls.element, this.controls.refusal, this.line)
    this.body = el('div', { class: 'mj-run-body', hidden: true }, told, this.chart.element, this.samples.element)
    this.element = el('section', { class: 'mj-run', ariaLabel: 'Training' }, this.hint, this.body)
    this.observer = new IntersectionObserver((entries) => this.#seen(entries[entries.length - 1].isIntersecting))
    this.observer.observe(this.element)
  }

  /** @param {string | null} id of a run */
  show(id) {
    if (id === this.#id) return
    this.#unwatch()
    this.#id = id
    this.samples.clear()
    this.chart.clear()
    this.#unwatch = id === null ? () => {} : this.store.watch(id, () => this.#draw())
    this.#draw()
  }

  destroy() {
    this.#unwatch()
    this.#unwatch = () => {}
    this.#id = null
    this.observer.disconnect()
    this.chart.destroy()
  }

  /** @param {boolean} visible */
  #seen(visible) {
    this.#visible = visible
    if (visible) this.#draw()
  }

  #draw() {
    if (this.#due || !this.#visible) return
    this.#due = true
    requestAnimationFrame(() => {
      this.#due = false
      if (this.#id === null) this.#empty(NO_RUN)
      else this.#full(this.#id)
    })
  }

  /** @param {string} hint */
  #empty(hint) {
    this.hint.textContent = hint
    this.hint.hidden = !hint
    this.body.hidden = Boolean(hint)
  }

  /** @param {string} id */
  #full(id) {
    const run = this.store.run(id)
    const details = this.store.details(id)
    if (!run || !details) return this.#empty(details?.problem || 'loading …')
    this.#empty('')
    // of a run of long ago the server only looks at the end of the log
    this.#tell({ ...run, validation: run.validation ?? details.curve.heldOut() })
    const points = details.curve.points.length
    this.chart.element.hidden = !points
    if (points) this.chart.draw(details.curve)
    this.samples.show(details.samples)
  }

  /** @param {Run} run */
  #tell(run) {
    const connected = this.store.connected
    put(this.name, run.name || run.id)
    put(this.state, stateOf(run))
    this.element.dataset.state = run.state
    this.bar.value = progressOf(run)
    this.#tellFacts(factsOf(run))
    this.controls.show(run, connected)
    put(this.line, connected ? lineOf(run) : NO_CONNECTION)
  }

  /** @param {[string, string][]} facts */
  #tellFacts(facts) {
    if (facts.map(([name]) => name).join() !== [...this.#facts.keys()].join()) {
      this.#facts = new Map(facts.map(([name]) => [name, el('dd', {})]))
      fill(this.facts, ...[...this.#facts].map(([name, value]) => el('div', {}, el('dt', {}, name), value)))
    }
    facts.forEach(([name, value]) => put(/** @type {HTMLElement} */ (this.#facts.get(name)), value))
  }
}

/**
 * Text only where it changes: a selection and a screen reader's place survive.
 *
 * @param {HTMLElement} element
 * @param {string} text
 */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text
}
