/** Mjesec's extension of the graph editor. Every node works without it; it only shows more and saves steps. */
import { addDatasetPreview } from './dataset/on_node.mjs'
import { addFigureViewer } from './figure/on_node.mjs'
import { app } from './host.mjs'
import { addLoraInfo, loraMenu } from './lora/on_node.mjs'

document.head.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href: new URL('./mjesec.css', import.meta.url).href }))

app.registerExtension({
  name: 'mjesec',
  nodeCreated(/** @type {any} */ node) {
    addFigureViewer(node)
    addDatasetPreview(node)
    addLoraInfo(node)
  },
  getNodeMenuItems(/** @type {any} */ node) {
    return loraMenu(node)
  },
})
