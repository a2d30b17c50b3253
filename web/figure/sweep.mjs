/**
 * A sweep's manifest as a grid: two axes are shown as columns and rows, every other one at one of its values.
 *
 * @typedef {{ parameter: string, label: string, values: unknown[], texts: string[] }} Axis
 * @typedef {{ index: number[], values: Record<string, unknown>, key?: string, error?: string, seconds?: number,
 *             source?: string, how?: string, parameters?: Record<string, unknown> }} Cell
 * @typedef {{ name: string, axes: Axis[], cells: Cell[], notes?: string[], parameters?: Record<string, unknown> }} Manifest
 * @typedef {{ columns: number | null, rows: number | null, at: number[] }} View axes by number; `at`: the index on each axis
 */

/**
 * The view a sweep opens with: the first axis goes right, the second down, as in the figure.
 *
 * @param {Manifest} sweep
 * @returns {View}
 */
export function firstView(sweep) {
  return { columns: sweep.axes.length > 0 ? 0 : null, rows: sweep.axes.length > 1 ? 1 : null, at: sweep.axes.map(() => 0) }
}

/**
 * The same view with an axis put on columns or rows; if it was on the other one, they change places.
 *
 * @param {View} view
 * @param {'columns' | 'rows'} place
 * @param {number} axis
 * @returns {View}
 */
export function placed(view, place, axis) {
  const other = place === 'columns' ? 'rows' : 'columns'
  return { ...view, [place]: axis, [other]: view[other] === axis ? view[place] : view[other] }
}

/**
 * @param {Manifest} sweep
 * @param {View} view
 * @returns {{ columns: string[], rows: string[], cells: Cell[][] }} header texts, and cells by row and column
 */
export function gridOf(sweep, view) {
  const texts = (/** @type {number | null} */ axis) => (axis === null ? [''] : sweep.axes[axis].texts)
  const columns = texts(view.columns)
  const rows = texts(view.rows)
  const cells = rows.map((_, row) =>
    columns.map((_, column) => {
      const index = [...view.at]
      if (view.rows !== null) index[view.rows] = row
      if (view.columns !== null) index[view.columns] = column
      return sweep.cells[position(sweep, index)]
    })
  )
  return { columns, rows, cells }
}

/**
 * Cells are listed with the last axis running fastest.
 *
 * @param {Manifest} sweep
 * @param {number[]} index
 */
function position(sweep, index) {
  return index.reduce((sum, at, axis) => sum * sweep.axes[axis].values.length + at, 0)
}

/**
 * @param {Manifest} sweep
 * @param {Cell} cell
 * @returns {string} "CFG scale 7, Seed 3"
 */
export function nameOf(sweep, cell) {
  return sweep.axes.map((axis, at) => `${axis.label} ${axis.texts[cell.index[at]]}`).join(', ') || 'the only cell'
}

/**
 * What a cell was made with, its axes first.
 *
 * @param {Manifest} sweep
 * @param {Cell} cell
 * @returns {[string, unknown][]}
 */
export function factsOf(sweep, cell) {
  /** @type {[string, unknown][]} */
  const axes = sweep.axes.map((axis, at) => [axis.label, axis.texts[cell.index[at]]])
  const shown = new Set(sweep.axes.map((axis) => axis.parameter))
  const rest = Object.entries(cell.parameters ?? {}).filter(([name, value]) => !shown.has(name) && value !== '')
  /** @type {[string, unknown][]} */
  const parameters = rest.map(([name, value]) => [name.replaceAll('_', ' '), value])
  /** @type {[string, unknown][]} */
  const made = cell.error ? [['error', cell.error]] : [['seconds', cell.seconds], ['from', [cell.source, cell.how].filter(Boolean).join(', ')]]
  return [...axes, ...parameters, ...made]
}
