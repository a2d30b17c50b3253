/** How a run stands, in words and numbers. */
import { clock, number } from '../lib/format.mjs'
import { isLive } from './runs.mjs'

/** @typedef {import('./runs.mjs').Run} Run */

/** What each button asks for: its label, and what it does. */
export const WISHES = /** @type {const} */ ([
  ['pause', 'Pause', 'Save the state and give the memory back, after the step under way'],
  ['resume', 'Resume', 'Go on exactly as if there had been no pause'],
  ['stop', 'Stop and save', 'End after the step under way and save the LoRA as it is; queue again to go on'],
  ['save', 'Save now', 'Write a LoRA file and the state after the step under way, and train on'],
  ['sample', 'Sample now', 'Draw the sample images after the step under way'],
])

/**
 * Pause and Resume share a place: only the one that makes sense is shown.
 *
 * @param {Run} run
 */
export function buttonsOf(run) {
  const hidden = run.wishes.includes('resume') ? 'pause' : 'resume'
  return WISHES.filter(([wish]) => wish !== hidden)
}

/**
 * @param {Run} run
 * @returns {string} its state, and what it is about to do after the step under way
 */
export function stateOf(run) {
  if (!isLive(run) || run.state === 'paused') return run.state
  if (run.wishes.includes('resume')) return 'pausing after this step'
  return run.wishes.length ? run.state : 'stopping after this step'
}

/**
 * @param {Run} run
 * @returns {string} the line below the state: what it is busy with, or how it ended
 */
export function lineOf(run) {
  if (isLive(run)) return run.stage || run.message
  return run.file && !run.message.includes(run.file) ? `${run.message} ${run.file}`.trim() : run.message
}

/**
 * @param {Run} run
 * @returns {[string, string][]}
 */
export function factsOf(run) {
  const live = isLive(run)
  /** @type {[string, string | false][]} */
  const facts = [
    ['step', `${run.step} of ${run.steps || '–'}`],
    ['epoch', run.epochs > 0 && `${run.epoch} of ${run.epochs}`],
    ['speed', speed(run.seconds_per_step)],
    ['left', live && clock(run.eta)],
    ['memory', live && memory(run.memory_mb)],
    ['loss, smoothed', number(run.smoothed_loss)],
    ['held-out loss', run.validation !== null && number(run.validation)],
    ['learning rate', [...new Set(Object.values(run.lr).map((rate) => number(rate)))].join(' / ') || '–'],
  ]
  return /** @type {[string, string][]} */ (facts.filter(([, value]) => value !== false))
}

/** @param {number | null} seconds a step */
function speed(seconds) {
  if (!seconds) return '–'
  return seconds < 1 ? `${number(1 / seconds)} steps/s` : `${number(seconds)} s/step`
}

/** @param {number | null} megabytes */
function memory(megabytes) {
  if (megabytes === null) return '–'
  return megabytes < 1024 ? `${Math.round(megabytes)} MB` : `${(megabytes / 1024).toFixed(1)} GB`
}

/** @param {Run} run @returns {number} 0 to 1 */
export function progressOf(run) {
  return run.steps > 0 ? Math.min(1, run.step / run.steps) : 0
}

/** @param {number} seconds since 1970 */
export function dateOf(seconds) {
  return seconds > 0 ? new Date(seconds * 1000).toLocaleString() : ''
}
