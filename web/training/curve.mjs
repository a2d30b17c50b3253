/**
 * The curve of one run, kept small however long the run is: beyond MOST points one is kept of every two steps, then of
 * every four, and so on, evenly over the whole run; the newest is always there.
 *
 * @typedef {{ step: number, loss: number | null, smoothed: number | null, lr: Record<string, number>,
 *             validation: number | null }} Point
 * @typedef {(number | null)[]} Column
 */

const MOST = 2000

export class Curve {
  /** @type {Point[]} in the order of their steps */
  #points = []
  /** steps of which one point is kept */
  #width = 1

  /** @param {number} [most] points; held-out losses are the last to be left out */
  constructor(most = MOST) {
    this.most = most
  }

  /** @returns {readonly Point[]} */
  get points() {
    return this.#points
  }

  get last() {
    return this.#points[this.#points.length - 1]
  }

  /**
   * Takes points in any order; one of a step that is there already replaces it.
   *
   * @param {Point[]} points
   */
  add(points) {
    if (!points.length) return
    if (points.some((point, at) => point.step <= (at ? points[at - 1].step : (this.last?.step ?? 0)))) this.#merge(points)
    else points.forEach((point) => this.#append(point))
    while (this.#points.length > this.most) this.#thin()
  }

  /**
   * Forgets what lies beyond a step: a run that died goes on from the state that it saved last.
   *
   * @param {number} step
   */
  rewind(step) {
    while (this.#points.length && this.last.step > step) this.#points.pop()
  }

  /** @param {Point[]} points */
  #merge(points) {
    const byStep = new Map([...this.#points, ...points].map((point) => [point.step, point]))
    this.#points = []
    for (const step of [...byStep.keys()].sort((one, other) => one - other)) this.#append(/** @type {Point} */ (byStep.get(step)))
  }

  /** @param {Point} point later than all others */
  #append(point) {
    const [before, last] = this.#points.slice(-2)
    // what was the newest stays only if it is the first of its bucket
    const crowded = before && last && this.#bucket(before) === this.#bucket(last) && last.validation === null
    if (crowded) this.#points[this.#points.length - 1] = point
    else this.#points.push(point)
  }

  #thin() {
    this.#width *= 2
    const marked = this.#points.filter((point) => point.validation !== null).length
    const spare = marked <= this.most / 2
    const last = this.#points.length - 1
    this.#points = this.#points.filter(
      (point, at) => at === 0 || at === last || (spare && point.validation !== null) || this.#bucket(point) !== this.#bucket(this.#points[at - 1])
    )
  }

  /** @param {Point} point */
  #bucket(point) {
    return Math.floor(point.step / this.#width)
  }

  /** @returns {number | null} the latest held-out loss */
  heldOut() {
    return this.#points.findLast(({ validation }) => validation !== null)?.validation ?? null
  }

  /** @returns {string[]} what has a learning rate of its own */
  groups() {
    return [...new Set([this.#points[0], this.last].flatMap((point) => Object.keys(point?.lr ?? {})))]
  }

  /**
   * @param {string[]} groups
   * @returns {{ steps: number[], loss: Column, smoothed: Column, validation: Column, rates: Column[] }}
   */
  columns(groups) {
    return {
      steps: this.#points.map((point) => point.step),
      loss: this.#points.map((point) => point.loss),
      smoothed: this.#points.map((point) => point.smoothed),
      validation: this.#points.map((point) => point.validation),
      rates: groups.map((group) => this.#points.map((point) => point.lr[group] ?? null)),
    }
  }
}
