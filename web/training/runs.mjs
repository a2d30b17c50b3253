/**
 * The one place in a page that knows how runs stand. Views listen to it; it hears the server's events, and asks for
 * what it may have missed. It keeps the curve of a run for as long as somebody watches it.
 *
 * @typedef {import('./curve.mjs').Point} Point
 * @typedef {{ step: number, filename: string, subfolder?: string, type?: string, prompt?: string }} Sample
 * @typedef {{ id: string, name: string, node_id: string | null, prompt_id: string | null, workflow_id: string | null,
 *             state: string, stage: string, step: number, steps: number, epoch: number, epochs: number,
 *             loss: number | null, smoothed_loss: number | null, validation: number | null,
 *             lr: Record<string, number>, seconds_per_step: number | null, eta: number | null, time: number,
 *             memory_mb: number | null, message: string, file: string, wishes: string[] }} Run
 * @typedef {Run & { points: Point[], samples: Sample[] }} Message what the event `mjesec.run` carries
 * @typedef {{ get(parts: string[], query?: Record<string, string | number>): Promise<any>,
 *             post(parts: string[], body?: unknown): Promise<any> }} Server
 */
import { Curve } from './curve.mjs'

const MOST_SAMPLES = 240
/** The server lists no more: a run that such a list lacks may be known all the same. */
export const MOST_LISTED = 200
const ENDED = ['finished', 'stopped', 'failed']

/** @param {Run} run */
export function isLive(run) {
  return !ENDED.includes(run.state)
}

/** What is known of a watched run besides how it stands. */
class Watched {
  /** @type {Set<() => void>} */
  listeners = new Set()
  curve = new Curve()
  /** @type {Sample[]} */
  samples = []
  /** the step up to which nothing is missing; null: the newest point's */
  /** @type {number | null} */
  whole = 0
  /** @type {string} why there is no curve */
  problem = ''

  /** @param {Sample[]} samples */
  addSamples(samples) {
    const known = new Set(this.samples.map(keyOf))
    const fresh = samples.filter((sample) => !known.has(keyOf(sample)))
    this.samples = [...this.samples, ...fresh].sort((one, other) => one.step - other.step).slice(-MOST_SAMPLES)
  }
}

/** @param {Sample} sample */
export function keyOf(sample) {
  return `${sample.step} ${sample.filename}`
}

export class RunStore {
  /** @type {Map<string, Run>} */
  #runs = new Map()
  /** @type {Map<string, number>} by run, the tick of its last event */
  #heard = new Map()
  /** @type {Map<string, Watched>} */
  #watched = new Map()
  /** @type {Set<() => void>} */
  #listeners = new Set()
  #tick = 0
  #connected = true
  /** how many runs the server has besides those that it lists */
  older = 0

  /** @param {Server} server */
  constructor(server) {
    this.server = server
  }

  /** Whether the server's events reach this page. */
  get connected() {
    return this.#connected
  }

  /** @returns {Run[]} those that go on first, then the newest */
  get runs() {
    const rank = (/** @type {Run} */ run) => (isLive(run) ? 1 : 0)
    return [...this.#runs.values()].sort((one, other) => rank(other) - rank(one) || other.time - one.time)
  }

  /** @param {string} id */
  run(id) {
    return this.#runs.get(id)
  }

  /** @param {string} id @returns {{ curve: Curve, samples: Sample[], problem: string } | undefined} of a watched run */
  details(id) {
    return this.#watched.get(id)
  }

  /** How many views listen; a view that has left the page must not be among them. */
  get listening() {
    return this.#listeners.size + [...this.#watched.values()].reduce((sum, watched) => sum + watched.listeners.size, 0)
  }

  /**
   * Calls back when any run changes.
   *
   * @param {() => void} listener
   * @returns {() => void} ends it
   */
  listen(listener) {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /**
   * Calls back when this run, its curve or its samples change; the curve is fetched for the first who watches.
   *
   * @param {string} id
   * @param {() => void} listener
   * @returns {() => void} ends it
   */
  watch(id, listener) {
    const watched = this.#watched.get(id) ?? new Watched()
    if (!this.#watched.has(id)) {
      this.#watched.set(id, watched)
      this.#fetch(id, watched)
    }
    watched.listeners.add(listener)
    return () => {
      watched.listeners.delete(listener)
      if (!watched.listeners.size && this.#watched.get(id) === watched) this.#watched.delete(id)
    }
  }

  /** @param {Message} message */
  hear(message) {
    const { points, samples, ...run } = message
    this.#heard.set(run.id, ++this.#tick)
    this.#forgetForerunner(run)
    this.#runs.set(run.id, run)
    const watched = this.#watched.get(run.id)
    if (watched) {
      // while it prepares, a run that goes on does not know its step yet
      if (run.state !== 'preparing') watched.curve.rewind(run.step)
      watched.curve.add(points)
      watched.addSamples(samples)
    }
    this.#tell([run.id])
  }

  /** The server's events no longer arrive. */
  lost() {
    if (!this.#connected) return
    this.#connected = false
    for (const watched of this.#watched.values()) watched.whole ??= watched.curve.last?.step ?? 0
    this.#tell(this.#watched.keys())
  }

  /** Asks for everything that may have been missed: after a reload, a lost connection, a sleep, a restart. */
  async refresh() {
    const began = ++this.#tick
    const { runs, older = 0 } = await this.server.get(['runs'])
    this.#connected = true
    this.older = older
    const known = [...this.#runs.values()]
    const heard = known.filter((run) => (this.#heard.get(run.id) ?? 0) > began)
    // one that is too old for the list stays while somebody watches it
    const watched = known.filter(({ id }) => older > 0 && this.#watched.has(id))
    this.#runs = new Map([...watched, .../** @type {Run[]} */ (runs), ...heard].map((run) => [run.id, run]))
    for (const id of this.#heard.keys()) if (!this.#runs.has(id)) this.#heard.delete(id)
    this.#tell(this.#watched.keys())
    await Promise.all([...this.#watched].map(([id, watched]) => this.#fetch(id, watched)))
  }

  /**
   * Asks a run to pause, resume, stop, save or sample; throws the server's sentence if it refuses.
   *
   * @param {string} id
   * @param {string} wish
   */
  async ask(id, wish) {
    await this.server.post(['runs', id, wish])
  }

  /**
   * @param {string} id
   * @param {Watched} watched
   */
  async #fetch(id, watched) {
    const began = ++this.#tick
    const since = Math.max(0, (watched.whole ?? watched.curve.last?.step ?? 0) - 1)
    try {
      const { run, points, samples } = await this.server.get(['runs', id], { since })
      if ((this.#heard.get(id) ?? 0) < began) {
        this.#runs.set(id, run)
        if (run.state !== 'preparing') watched.curve.rewind(run.step)
      }
      watched.curve.add(points)
      watched.addSamples(samples)
      watched.whole = null
      watched.problem = ''
    } catch (error) {
      watched.problem = error instanceof Error ? error.message : String(error)
    }
    this.#tell([id])
  }

  /**
   * A run whose images turn out broken begins anew without them, as another run.
   *
   * @param {Run} run
   */
  #forgetForerunner(run) {
    if (!run.prompt_id || this.#runs.has(run.id)) return
    for (const other of this.#runs.values()) {
      if (isLive(other) && other.prompt_id === run.prompt_id && other.node_id === run.node_id) this.#runs.delete(other.id)
    }
  }

  /** @param {Iterable<string>} ids of the runs that changed */
  #tell(ids) {
    for (const id of [...ids]) this.#watched.get(id)?.listeners.forEach((listener) => listener())
    this.#listeners.forEach((listener) => listener())
  }
}
