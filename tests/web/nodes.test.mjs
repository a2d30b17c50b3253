// @vitest-environment node
import { expect, test } from 'vitest'
import { sourceOf, valueUpstream, widgetValue } from '../../web/lib/nodes.mjs'

/** A node with widgets, and wires by the input's name. */
function node(widgets = {}, wires = {}) {
  const inputs = Object.keys(wires).map((name) => ({ name }))
  return {
    widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
    inputs,
    getInputNode: (/** @type {number} */ slot) => wires[inputs[slot].name],
  }
}

test('a widget is found by its name', () => {
  expect(widgetValue(node({ folder: 'input/moon', repeats: 0 }), 'repeats')).toBe(0)
  expect(widgetValue({}, 'repeats')).toBeUndefined()
})

test('a wire is followed by the name of its input', () => {
  const settings = node({ resolution: 512 })
  expect(sourceOf(node({}, { clip: null, settings }), 'settings')).toBe(settings)
  expect(sourceOf(node({}, { settings: null }), 'settings')).toBeUndefined()
  expect(sourceOf({}, 'settings')).toBeUndefined()
})

test('a value is looked for up the chain, and a ring ends', () => {
  const options = node({}, { settings: node({ resolution: 512 }) })
  expect(valueUpstream(node({}, { settings: options }), 'settings', 'resolution')).toBe(512)
  const ring = node({}, { settings: null })
  ring.getInputNode = () => ring
  expect(valueUpstream(ring, 'settings', 'resolution')).toBeUndefined()
})
