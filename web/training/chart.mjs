/** The chart of a run's curve: the loss of each step (faint), its running mean, held-out losses, learning rates. */
import { el, fill } from '../lib/dom.mjs'
import { number } from '../lib/format.mjs'
import uPlot from '../vendor/uplot.mjs'

/** @typedef {import('./curve.mjs').Curve} Curve */

const SMALLEST = { width: 120, height: 90 }
const COLOURS = ['--mj-loss-faint', '--mj-loss', '--mj-held-out', '--mj-rate', '--mj-axis', '--mj-grid']

export class LossChart {
  /** @type {any} */
  #plot = null
  /** @type {string[]} what has a learning rate */
  #groups = []
  /** @type {Set<string>} labels of the series that the user has switched off */
  #hidden = new Set()
  /** @type {[number, number] | null} the steps that the user has chosen by dragging */
  #zoom = null
  /** @type {number[]} */
  #size = [0, 0]
  /** the theme that was drawn last */
  #colours = ''

  constructor() {
    this.stage = el('div', { class: 'mj-chart-stage' })
    this.legend = el('div', { class: 'mj-legend' })
    this.element = el('div', { class: 'mj-chart' }, this.stage, this.legend)
    this.observer = new ResizeObserver(([entry]) => this.#resize(entry.contentRect))
    this.observer.observe(this.stage)
    // the editor's themes are variables and classes of these two
    this.themes = new MutationObserver(() => this.#recolour())
    for (const root of [document.documentElement, document.body]) this.themes.observe(root, { attributeFilter: ['class', 'style'] })
  }

  /** @param {Curve} curve */
  draw(curve) {
    const groups = curve.groups()
    if (!this.#plot || groups.join() !== this.#groups.join()) this.#build(groups)
    else this.#recolour()
    const { steps, loss, smoothed, validation, rates } = curve.columns(groups)
    this.#plot.setData([steps, loss, smoothed, validation, ...rates], this.#zoom === null)
    if (this.#zoom) this.#plot.setScale('x', { min: this.#zoom[0], max: this.#zoom[1] })
    this.#tellValues()
  }

  /** Forgets what was drawn and a zoom into it; the next drawing begins anew. A plot is known to the page until then. */
  clear() {
    this.#plot?.destroy()
    this.#plot = this.#zoom = null
    fill(this.legend)
  }

  destroy() {
    this.observer.disconnect()
    this.themes.disconnect()
    this.clear()
  }

  /** @param {string[]} groups */
  #build(groups) {
    this.#plot?.destroy()
    this.#groups = groups
    this.#colours = coloursOf(this.stage)
    const [width, height] = this.#size
    const plot = new uPlot(options(groups, width, height, this.stage), [[], [], [], [], ...groups.map(() => [])], this.stage)
    this.#plot = plot
    // dragging chooses steps, a double click shows all of them again
    plot.over.addEventListener('dblclick', () => (this.#zoom = null))
    plot.hooks.setSelect = [() => this.#choose(plot)]
    plot.hooks.setCursor = [() => this.#tellValues()]
    this.#drawLegend()
  }

  #recolour() {
    const colours = coloursOf(this.stage)
    if (!this.#plot || !this.stage.isConnected || colours === this.#colours) return
    this.#colours = colours
    this.#plot.redraw()
    this.#drawLegend()
  }

  /** @param {any} plot */
  #choose(plot) {
    const { left, width } = plot.select
    if (width < 3) return
    this.#zoom = [plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')]
  }

  /** @param {DOMRectReadOnly} area */
  #resize({ width, height }) {
    const size = [Math.max(SMALLEST.width, Math.floor(width)), Math.max(SMALLEST.height, Math.floor(height))]
    if (size.join() === this.#size.join()) return
    this.#size = size
    this.#plot?.setSize({ width: size[0], height: size[1] })
  }

  #drawLegend() {
    const series = this.#plot.series.slice(1)
    const entries = series.map((/** @type {any} */ { label, stroke }, /** @type {number} */ at) => {
      const name = String(label)
      const shown = !this.#hidden.has(name)
      if (!shown) this.#plot?.setSeries(at + 1, { show: false })
      const mark = el('span', { class: 'mj-legend-mark' })
      mark.style.background = colourOf(stroke)
      const value = el('span', { class: 'mj-legend-value' })
      return el('button', { class: 'mj-legend-entry', type: 'button', ariaPressed: String(shown), title: 'Show or hide', onclick: () => this.#toggle(name) }, mark, name, value)
    })
    fill(this.legend, el('span', { class: 'mj-legend-step' }), ...entries)
  }

  /** @param {string} name */
  #toggle(name) {
    const at = this.#plot.series.findIndex((/** @type {any} */ { label }) => label === name)
    const show = this.#hidden.delete(name)
    if (!show) this.#hidden.add(name)
    this.legend.querySelectorAll('button')[at - 1].ariaPressed = String(show)
    this.#plot?.setSeries(at, { show })
  }

  /** The values under the pointer, or nothing. */
  #tellValues() {
    const plot = this.#plot
    if (!plot) return
    const at = plot.cursor.idx
    const step = this.legend.querySelector('.mj-legend-step')
    if (step) step.textContent = at == null ? '' : `step ${plot.data[0][at]}`
    this.legend.querySelectorAll('.mj-legend-value').forEach((value, series) => {
      value.textContent = at == null ? '' : number(plot.data[series + 1][at])
    })
  }
}

/** @param {HTMLElement} stage */
function coloursOf(stage) {
  const style = getComputedStyle(stage)
  return COLOURS.map((name) => style.getPropertyValue(name)).join()
}

/**
 * @param {string[]} groups
 * @param {number} width
 * @param {number} height
 * @param {HTMLElement} stage whose style has the colours
 */
function options(groups, width, height, stage) {
  const style = getComputedStyle(stage)
  // asked anew at every drawing
  const colour = (/** @type {string} */ name) => () => style.getPropertyValue(name).trim()
  const grid = { stroke: colour('--mj-grid'), width: 1 }
  const axis = { stroke: colour('--mj-axis'), font: '11px sans-serif', ticks: { show: false }, grid }
  const rates = ['--mj-rate', '--mj-rate-2', '--mj-rate-3'].map(colour)
  return {
    width: width || SMALLEST.width,
    height: height || SMALLEST.height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, move: unscaled, drag: { x: true, y: false } },
    scales: { x: { time: false }, loss: {}, lr: { range: fromZero } },
    axes: [
      { ...axis, size: 22, gap: 2 },
      { ...axis, scale: 'loss', size: 44, gap: 2, values: inShort },
      { ...axis, scale: 'lr', side: 1, size: 50, gap: 2, grid: { show: false }, values: inShort, stroke: rates[0] },
    ],
    series: [
      {},
      { label: 'loss', scale: 'loss', stroke: colour('--mj-loss-faint'), width: 1, spanGaps: true, points: { show: false } },
      { label: 'smoothed', scale: 'loss', stroke: colour('--mj-loss'), width: 2, spanGaps: true, points: { show: false } },
      { label: 'held-out', scale: 'loss', stroke: colour('--mj-held-out'), width: 1.5, spanGaps: true, points: { show: true, size: 6, fill: colour('--mj-held-out') } },
      ...groups.map((group, at) => ({
        label: `lr ${group}`, scale: 'lr', stroke: rates[at % rates.length], width: 1, dash: [4, 3], spanGaps: true, points: { show: false },
      })),
    ],
  }
}

/** @param {unknown} _ @param {number[]} values */
function inShort(_, values) {
  return values.map((value) => number(value, 2))
}

/** @param {unknown} _ @param {number | null} least @param {number | null} most @returns {[number, number]} */
function fromZero(_, least, most) {
  return [0, most ? most * 1.05 : 1]
}

/** @param {unknown} stroke */
function colourOf(stroke) {
  return typeof stroke === 'function' ? stroke() : String(stroke ?? '')
}

/**
 * The editor's canvas scales what lies on it, which the pointer's position does not know.
 *
 * @param {{ over: HTMLElement }} plot
 * @param {number} left
 * @param {number} top
 * @returns {[number, number]}
 */
function unscaled({ over }, left, top) {
  const scale = over.getBoundingClientRect().width / over.offsetWidth || 1
  return [left / scale, top / scale]
}
