/** Mjesec's extension of the graph editor. Every node works without it; it only shows more and saves steps. */
import { addChooser } from './axis/on_node.mjs'
import { addDatasetPreview } from './dataset/on_node.mjs'
import { addFigureViewer, fillInFileNames } from './figure/on_node.mjs'
import { app } from './host.mjs'
import { addLoraInfo, loraMenu } from './lora/on_node.mjs'
import { results } from './results.mjs'
import { startListening } from './training/live.mjs'
import { addTrainingPanel } from './training/on_node.mjs'
import { trainingTab } from './training/tab.mjs'

for (const sheet of ['./vendor/uplot.css', './mjesec.css']) {
  document.head.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href: new URL(sheet, import.meta.url).href }))
}

app.registerExtension({
  name: 'mjesec',
  bottomPanelTabs: [trainingTab],
  setup() {
    startListening()
    results.start()
  },
  nodeCreated(/** @type {any} */ node) {
    addFigureViewer(node)
    fillInFileNames(node)
    addDatasetPreview(node)
    addLoraInfo(node)
    addTrainingPanel(node)
    addChooser(node)
  },
  afterConfigureGraph() {
    results.graphShown()
  },
  getNodeMenuItems(/** @type {any} */ node) {
    return loraMenu(node)
  },
})
