/** The cells with their headers, which stay in view while the cells scroll; arrow keys move from cell to cell. */
import { el, fill } from '../lib/dom.mjs'
import { gridOf, nameOf } from './sweep.mjs'
import { Tiles } from './tiles.mjs'

/** @typedef {import('./sweep.mjs').Cell} Cell */

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }
const SMALLEST = 32
const LARGEST = 1024

export class CellGrid {
  /** @type {HTMLButtonElement[][]} */
  #buttons = []
  #width = 128

  /**
   * @param {import('./sweep.mjs').Manifest} sweep
   * @param {(key: string, size: number) => string} urlOf
   * @param {{ onLook: (cell: Cell) => void, onLeave: () => void, onPick: (cell: Cell, event: MouseEvent) => void }} callbacks
   *   onLeave: pointer or focus go elsewhere
   */
  constructor(sweep, urlOf, { onLook, onLeave, onPick }) {
    this.sweep = sweep
    this.onLook = onLook
    this.onPick = onPick
    this.table = el('div', { class: 'mj-cells', role: 'grid' })
    this.element = el('div', { class: 'mj-scroller', onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) }, this.table)
    this.element.addEventListener('wheel', (event) => this.#wheel(event), { passive: false })
    this.element.addEventListener('pointerleave', onLeave)
    this.element.addEventListener('focusout', ({ relatedTarget }) => {
      if (!this.element.contains(/** @type {Node | null} */ (relatedTarget))) onLeave()
    })
    this.tiles = new Tiles(this.element, urlOf)
  }

  /** @param {import('./sweep.mjs').View} view */
  show(view) {
    const { columns, rows, cells } = gridOf(this.sweep, view)
    this.tiles.clear()
    this.table.style.setProperty('--columns', String(columns.length))
    this.#buttons = cells.map((line, row) => line.map((cell, column) => this.#cell(cell, row, column)))
    const head = el('div', { role: 'row' }, el('span', { class: 'mj-corner' }), ...columns.map((text) => header('columnheader', text)))
    const lines = rows.map((text, row) => el('div', { role: 'row' }, header('rowheader', text), ...this.#buttons[row]))
    fill(this.table, head, ...lines)
    this.#buttons[0][0].tabIndex = 0
    this.zoom(this.#width)
  }

  focus() {
    this.#current?.focus()
  }

  /** @returns {() => void} puts scroll and focus back to where they are now, on this cell */
  remember(/** @type {Cell} */ cell) {
    const { scrollLeft, scrollTop } = this.element
    return () => {
      Object.assign(this.element, { scrollLeft, scrollTop })
      this.#buttons.flat().find((button) => button.dataset.at === cell.index.join())?.focus({ preventScroll: true })
    }
  }

  /** The cell that the Tab key leads to: the one that had the focus last. */
  get #current() {
    return this.#buttons.flat().find(({ tabIndex }) => tabIndex === 0)
  }

  get width() {
    return this.#width
  }

  /** @param {number} width of a cell in CSS pixels */
  zoom(width) {
    this.#width = Math.round(Math.min(LARGEST, Math.max(SMALLEST, width)))
    this.table.style.setProperty('--tile', `${this.#width}px`)
    this.tiles.resize(this.#width)
  }

  /** Makes the whole grid fit into view, as far as cells can be made small. */
  fit() {
    const across = (this.element.clientWidth - 120) / this.#buttons[0].length
    const down = (this.element.clientHeight - 60) / this.#buttons.length
    this.zoom(Math.min(across, down) - 4)
  }

  /** @param {(Cell | null)[]} chosen cells to mark, at most two */
  mark(chosen) {
    for (const button of this.#buttons.flat()) {
      const at = chosen.findIndex((cell) => cell && button.dataset.at === cell.index.join())
      button.dataset.mark = at < 0 ? '' : 'AB'[at]
      button.ariaSelected = String(at >= 0)
    }
  }

  destroy() {
    this.tiles.clear()
  }

  /**
   * @param {Cell} cell
   * @param {number} row
   * @param {number} column
   */
  #cell(cell, row, column) {
    const name = nameOf(this.sweep, cell)
    const picture = cell.error ? el('span', { class: 'mj-failed' }, 'failed') : el('img', { alt: '', decoding: 'async', draggable: false })
    const button = el('button', { class: 'mj-cell', type: 'button', tabIndex: -1, role: 'gridcell', ariaLabel: name }, picture)
    Object.assign(button.dataset, { row, column, at: cell.index.join() })
    button.onpointerenter = () => this.onLook(cell)
    button.onfocus = () => {
      if (this.#current) this.#current.tabIndex = -1
      button.tabIndex = 0
      this.onLook(cell)
    }
    button.onclick = (event) => this.onPick(cell, event)
    if (picture instanceof HTMLImageElement && cell.key) this.tiles.add(picture, cell.key)
    return button
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === '+' || event.key === '=') this.zoom(this.#width * 1.25)
    else if (event.key === '-') this.zoom(this.#width / 1.25)
    else if (event.key in STEPS) this.#move(event.target, STEPS[/** @type {keyof typeof STEPS} */ (event.key)])
    else return
    event.preventDefault()
  }

  /**
   * @param {EventTarget | null} from
   * @param {number[]} step down and right
   */
  #move(from, [down, right]) {
    if (!(from instanceof HTMLButtonElement) || from.dataset.row === undefined) return
    this.#buttons[Number(from.dataset.row) + down]?.[Number(from.dataset.column) + right]?.focus()
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return
    event.preventDefault()
    this.zoom(this.#width * Math.exp(-event.deltaY / 400))
  }
}

/**
 * @param {'columnheader' | 'rowheader'} role
 * @param {string} text
 */
function header(role, text) {
  return el('span', { class: `mj-${role}`, role, title: text }, text)
}
