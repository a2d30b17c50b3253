/** The preview's button on the dataset nodes: of a folder at any time, of what other nodes make once they have run. */
import { api } from '../host.mjs'
import { addButton } from '../lib/buttons.mjs'
import { widgetValue } from '../lib/nodes.mjs'
import { Routes } from '../lib/routes.mjs'
import { results } from '../results.mjs'
import { openPreview } from './preview.mjs'
import { bucketsFor } from './settings.mjs'

const FOLDER = 'MjesecLoadImageDataset'
const MADE = ['MjesecMoonDataset', 'MjesecDatasetFromImages', 'MjesecCombineDatasets']
const OPTIONS = ['folder', 'repeats', 'default_caption', 'caption_extension', 'caption_table']
const PROPERTY = 'mjesec_dataset'
const routes = new Routes(api)

/** @param {any} node */
export function addDatasetPreview(node) {
  const reads = node.comfyClass === FOLDER
  if (!reads && !MADE.includes(node.comfyClass)) return
  addButton(node, 'Preview dataset', () => openPreview(routes, reads ? ofFolder(node) : ofNode(node), bucketsFor(node)))
  if (reads) return
  results.follow(node, (output) => {
    if (output.mjesec_dataset) node.properties[PROPERTY] = output.mjesec_dataset[0]
  })
}

/** @param {any} node */
function ofFolder(node) {
  const query = Object.fromEntries(OPTIONS.map((name) => [name, widgetValue(node, name) ?? '']))
  return { title: String(query.folder), query }
}

/** @param {any} node */
function ofNode(node) {
  return { title: String(node.title), id: node.properties[PROPERTY] }
}
