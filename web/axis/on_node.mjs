/** The button on Sweep Axis that fills its values with names. */
import { api, app } from '../host.mjs'
import { addButton } from '../lib/buttons.mjs'
import { widgetValue } from '../lib/nodes.mjs'
import { openChooser } from './choose.mjs'

/** @param {any} node */
export function addChooser(node) {
  if (node.comfyClass !== 'MjesecSweepAxis') return
  addButton(node, 'Choose', () => openChooser(api, widgetValue(node, 'parameter'), widgetValue(node, 'values') ?? '', (values) => {
    const widget = node.widgets.find((/** @type {any} */ each) => each.name === 'values')
    // between the two the editor notes a step that can be undone
    app.canvas.emitBeforeChange()
    widget.value = values
    widget.callback?.(values)
    node.graph?.change?.()
    app.canvas.emitAfterChange()
  }))
}
