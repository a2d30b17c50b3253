/** The LoRA info: a button on Load LoRA, and an entry in the menu of a training that has made one. */
import { api, app } from '../host.mjs'
import { addButton } from '../lib/buttons.mjs'
import { isWired, sourceOf, widgetValue } from '../lib/nodes.mjs'
import { Routes } from '../lib/routes.mjs'
import { results } from '../results.mjs'
import { openLoraInfo } from './info.mjs'

const LOADS = 'MjesecLoadLora'
const TRAINS = 'MjesecTrainLora'
const WIDGET = 'lora_name'
const PROPERTY = 'mjesec_lora'
const NO_FILE = /^\(.*\)$/
const routes = new Routes(api)

/** @param {any} node */
export function addLoraInfo(node) {
  if (node.comfyClass === LOADS) addButton(node, 'LoRA info', () => openLoraInfo(routes, nameFor(node), namesOf(node), loadGraph))
  if (node.comfyClass !== TRAINS) return
  results.follow(node, (output) => {
    if (output.mjesec_lora) node.properties[PROPERTY] = output.mjesec_lora[0]
  })
}

/**
 * @param {any} node
 * @returns {any[]} entries for its menu
 */
export function loraMenu(node) {
  const name = node.comfyClass === TRAINS && node.properties?.[PROPERTY]
  return name ? [{ content: 'LoRA info', callback: () => openLoraInfo(routes, name, [name], loadGraph) }] : []
}

/**
 * What the node loads: the LoRA on its wire goes before the file, also while nobody knows which one that is.
 *
 * @param {any} node
 * @returns {string | undefined}
 */
function nameFor(node) {
  if (isWired(node, 'lora')) return sourceOf(node, 'lora')?.properties?.[PROPERTY]
  const chosen = widgetValue(node, WIDGET)
  return NO_FILE.test(chosen) ? undefined : chosen
}

/** @param {any} node */
function namesOf(node) {
  const values = node.widgets?.find((/** @type {any} */ widget) => widget.name === WIDGET)?.options?.values ?? []
  const listed = typeof values === 'function' ? values() : values
  return listed.filter((/** @type {string} */ value) => !NO_FILE.test(value))
}

/**
 * Opens as a workflow of its own, as a file does that is dropped on the editor.
 *
 * @param {import('./info.mjs').Graph} graph
 * @param {string} title
 */
function loadGraph({ workflow, prompt }, title) {
  if (workflow) app.loadGraphData(workflow, true, true, title)
  else if (prompt) app.loadApiJson(prompt, title)
}
