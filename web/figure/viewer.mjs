/** The figure viewer: a sweep's cells to look at, to compare, and to go on from. */
import { openDialog, failure } from '../lib/dialog.mjs'
import { definitions, el, fill } from '../lib/dom.mjs'
import { compareView } from './compare.mjs'
import { CellGrid } from './grid.mjs'
import { factsOf, firstView, nameOf, placed } from './sweep.mjs'

/** @typedef {import('./sweep.mjs').Cell} Cell */

const NO_SWEEP = 'This figure shows no sweep itself, but a view of one, or other images: press the button on the Sweep node, or choose a sweep above.'
const NOT_RUN = 'This node remembers no sweep yet: queue the graph first, or choose a sweep above.'
const KEYS = 'Arrow keys move, Enter chooses, Shift+Enter or Shift+click compares, G opens the chosen cell as a graph, + and − zoom.'

/**
 * @param {import('../lib/routes.mjs').Routes} routes
 * @param {string | undefined} name the sweep's; undefined where the node has made none yet, empty where it shows none
 * @param {(graph: object, title: string) => void} onGraph takes a cell's plain graph
 */
export async function openViewer(routes, name, onGraph) {
  const body = el('div', { class: 'mj-viewer' }, el('p', { class: 'mj-hint' }, 'loading …'))
  const chooser = el('select', { class: 'mj-select', ariaLabel: 'Sweep' })
  const dialog = openDialog('Figure', [chooser], body)
  /** @type {Viewer | null} */
  let viewer = null
  let asked = 0
  const leave = () => {
    viewer?.destroy()
    viewer = null
  }
  const show = async (/** @type {string} */ wanted) => {
    const mine = ++asked
    // another one was chosen meanwhile, or nobody looks any more
    const isLate = () => mine !== asked || !dialog.open
    try {
      const sweep = await routes.get(['sweeps', wanted])
      if (isLate()) return
      leave()
      viewer = new Viewer(routes, sweep, (cell) => sendCell(routes, viewer, cell, dialog, onGraph))
      fill(body, viewer.element)
      viewer.start()
    } catch (error) {
      if (!isLate()) fill(body, failure(error))
    }
  }
  dialog.addEventListener('close', leave)
  chooser.onchange = () => show(chooser.value)
  try {
    const { sweeps } = await routes.get(['sweeps'])
    const names = name && !sweeps.includes(name) ? [name, ...sweeps] : sweeps
    const options = names.map((/** @type {string} */ each) => el('option', { value: each, selected: each === name }, dated(each)))
    if (!names.length && name === undefined) throw new Error('There is no sweep on disk yet: queue a graph with a Sweep node first.')
    if (!name) {
      fill(chooser, el('option', { value: '', selected: true, disabled: true }, 'sweeps'), ...options)
      fill(body, el('p', { class: 'mj-hint' }, name === '' ? NO_SWEEP : NOT_RUN))
      return
    }
    fill(chooser, ...options)
    await show(name)
  } catch (error) {
    fill(body, failure(error))
  }
}

/**
 * @param {import('../lib/routes.mjs').Routes} routes
 * @param {Viewer | null} viewer
 * @param {Cell} cell
 * @param {HTMLDialogElement} dialog
 * @param {(graph: object, title: string) => void} onGraph
 */
async function sendCell(routes, viewer, cell, dialog, onGraph) {
  if (!viewer || !cell.key) return
  try {
    const { graph } = await routes.get(['cells', cell.key, 'graph'])
    dialog.close()
    onGraph(graph, nameOf(viewer.sweep, cell))
  } catch (error) {
    fill(viewer.told, failure(error))
  }
}

/** @param {string} name "20261124-032943-348900158" */
function dated(name) {
  const [, year, month, day, hour, minute, second] = name.match(/^(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)/) ?? []
  return year ? `${year}-${month}-${day} ${hour}:${minute}:${second}` : name
}

class Viewer {
  /** @type {Cell | null} */
  #chosen = null
  /** @type {Cell | null} */
  #looked = null

  /**
   * @param {import('../lib/routes.mjs').Routes} routes
   * @param {import('./sweep.mjs').Manifest} sweep
   * @param {(cell: Cell) => void} onSend
   */
  constructor(routes, sweep, onSend) {
    this.routes = routes
    this.sweep = sweep
    this.onSend = onSend
    this.view = firstView(sweep)
    const urlOf = (/** @type {string} */ key, /** @type {number} */ size) => routes.url(['cells', key], { size })
    this.grid = new CellGrid(sweep, urlOf, {
      onLook: (cell) => this.#look(cell),
      // what is told beside the button is of the cell that it opens
      onLeave: () => this.#chosen && this.#look(this.#chosen),
      onPick: (cell, event) => this.#pick(cell, event),
    })
    this.main = el('div', { class: 'mj-main' }, this.#bar(), this.grid.element)
    this.told = el('div', { class: 'mj-told' })
    this.actions = el('div', { class: 'mj-bar' })
    const side = el('aside', { class: 'mj-side' }, this.actions, this.told, el('p', { class: 'mj-hint' }, KEYS))
    this.element = el('div', { class: 'mj-split', onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) }, this.main, side)
  }

  /** Once it is on the page, and so has a size. */
  start() {
    this.grid.show(this.view)
    this.grid.fit()
    this.grid.focus()
  }

  destroy() {
    this.grid.destroy()
  }

  #bar() {
    const zooms = [['−', 0.8, 'Smaller'], ['+', 1.25, 'Larger']].map(([text, by, title]) =>
      el('button', { class: 'mj-button', type: 'button', title, onclick: () => this.grid.zoom(this.grid.width * Number(by)) }, String(text))
    )
    const fit = el('button', { class: 'mj-button', type: 'button', onclick: () => this.grid.fit() }, 'fit')
    const { columns, rows } = this.view
    const choosers = [
      columns !== null && this.#axisChooser('columns'),
      rows !== null && this.#axisChooser('rows'),
      ...this.sweep.axes.map((axis, at) => at !== columns && at !== rows && this.#valueChooser(axis, at)),
    ]
    return el('div', { class: 'mj-bar' }, ...choosers, ...zooms, fit)
  }

  /** @param {'columns' | 'rows'} place */
  #axisChooser(place) {
    const options = this.sweep.axes.map((axis, at) => el('option', { value: String(at), selected: this.view[place] === at }, axis.label))
    const select = el('select', { class: 'mj-select', ariaLabel: place, onchange: () => this.#change(placed(this.view, place, Number(select.value))) }, ...options)
    return el('label', {}, `${place} `, select)
  }

  /**
   * @param {import('./sweep.mjs').Axis} axis
   * @param {number} number
   */
  #valueChooser(axis, number) {
    const options = axis.texts.map((text, at) => el('option', { value: String(at), selected: this.view.at[number] === at }, text))
    const select = el('select', { class: 'mj-select', ariaLabel: axis.label }, ...options)
    select.onchange = () => this.#change({ ...this.view, at: this.view.at.with(number, Number(select.value)) })
    return el('label', {}, `${axis.label} `, select)
  }

  /** @param {import('./sweep.mjs').View} view */
  #change(view) {
    this.view = view
    const label = document.activeElement?.ariaLabel
    const bar = this.#bar()
    this.main.firstElementChild?.replaceWith(bar)
    // the chooser that was used has been replaced: its successor takes the focus
    for (const select of bar.querySelectorAll('select')) if (select.ariaLabel === label) select.focus()
    this.grid.show(view)
    this.grid.mark([this.#chosen])
  }

  /** @param {Cell} cell */
  #look(cell) {
    if (cell === this.#looked) return
    this.#looked = cell
    fill(this.told, definitions(factsOf(this.sweep, cell)))
  }

  /**
   * @param {Cell} cell
   * @param {MouseEvent} event
   */
  #pick(cell, event) {
    // a failed cell has no image to compare
    if (event.shiftKey && this.#chosen?.key && cell.key && this.#chosen !== cell) return this.#compare(this.#chosen, cell)
    this.#chosen = cell
    this.grid.mark([cell])
    const send = el('button', { class: 'mj-button mj-strong', type: 'button', disabled: !cell.key, onclick: () => this.onSend(cell) }, 'Open as KSampler graph')
    const name = nameOf(this.sweep, cell)
    fill(this.actions, el('strong', { class: 'mj-chosen', title: name }, `A: ${name}`), send, el('span', { class: 'mj-hint' }, 'Shift+Enter or Shift+click on another cell compares it with this one (A).'))
  }

  /**
   * @param {Cell} first
   * @param {Cell} second
   */
  #compare(first, second) {
    const [a, b] = [first, second].map((cell) => ({ name: nameOf(this.sweep, cell), url: this.routes.url(['cells', cell.key ?? '']) }))
    const restore = this.grid.remember(second)
    const back = () => {
      view.replaceWith(this.main)
      this.grid.mark([first, second])
      restore()
    }
    const view = compareView(a, b, back)
    this.main.replaceWith(view)
    // the cell that had the focus is gone: the arrow keys move the border now
    view.querySelector('input')?.focus()
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const cell = this.#chosen ?? this.#looked
    if (event.key.toLowerCase() === 'g' && cell && !event.ctrlKey && !(event.target instanceof HTMLSelectElement)) this.onSend(cell)
  }
}
