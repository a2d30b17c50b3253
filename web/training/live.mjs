/** The page's one store of runs, fed by the host: its events, and a look at the whole whenever some may be missing. */
import { api } from '../host.mjs'
import { Routes } from '../lib/routes.mjs'
import { isLive, RunStore } from './runs.mjs'

const LOOK_EVERY_MS = 15_000

const routes = new Routes(api)
export const store = new RunStore(routes)
let heard = 0
let missing = false

/** Listens from now on, for as long as the page is open. */
export function startListening() {
  api.addEventListener('mjesec.run', (event) => {
    heard = Date.now()
    store.hear(/** @type {CustomEvent} */ (event).detail)
  })
  api.addEventListener('reconnecting', () => {
    missing = true
    store.lost()
  })
  api.addEventListener('reconnected', look)
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && look())
  setInterval(() => quiet() && look(), LOOK_EVERY_MS)
  look()
}

/** Whether a run goes on of which nothing has been heard for long: a connection can die without a word. */
function quiet() {
  return missing || (Date.now() - heard > LOOK_EVERY_MS && store.listening > 0 && store.runs.some(isLive))
}

function look() {
  store.refresh().then(
    () => (missing = false),
    // the host does not answer yet; the next look will tell
    () => (missing = true)
  )
}

/**
 * @param {import('./runs.mjs').Sample} sample
 * @returns {string} where its image is
 */
export function urlOf({ filename, subfolder = '', type = 'output' }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}
