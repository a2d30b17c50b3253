/** The viewer's button on Sweep and Figure, which remember the sweep that they made, and the names of files for print. */
import { api, app, filledIn } from '../host.mjs'
import { addButton } from '../lib/buttons.mjs'
import { Routes } from '../lib/routes.mjs'
import { results } from '../results.mjs'
import { openViewer } from './viewer.mjs'

const KINDS = ['MjesecSweep', 'MjesecFigure']
const FILES_OF = ['MjesecFigure', 'MjesecLossChart']
const PROPERTY = 'mjesec_sweep'
const routes = new Routes(api)

/** @param {any} node */
export function addFigureViewer(node) {
  if (!KINDS.includes(node.comfyClass)) return
  addButton(node, 'Explore cells', () => openViewer(routes, node.properties[PROPERTY], loadGraph))
  results.follow(node, (output) => {
    // a property is saved with the workflow, so that the button still works tomorrow; the prompt does not hold it. It is
    // empty where what was drawn is no sweep
    if (output.mjesec_sweep) node.properties[PROPERTY] = output.mjesec_sweep[0]
  })
}

/** @param {any} node */
export function fillInFileNames(node) {
  if (!FILES_OF.includes(node.comfyClass)) return
  const widget = node.widgets?.find((/** @type {any} */ each) => each.name === 'filename_prefix')
  if (widget) widget.serializeValue = () => filledIn(widget.value)
}

/**
 * Opens a cell as a graph that makes the same cell again, however often it is queued.
 *
 * @param {object} graph API format
 * @param {string} title
 */
function loadGraph(graph, title) {
  app.loadApiJson(graph, title)
  const widgets = app.graph.nodes.flatMap((/** @type {any} */ node) => node.widgets ?? [])
  for (const widget of widgets) if (widget.name === 'control_after_generate') widget.value = 'fixed'
  // nodes know their sizes once they have been drawn
  requestAnimationFrame(() => requestAnimationFrame(() => app.extensionManager.command.execute('Comfy.Canvas.FitView')))
}
