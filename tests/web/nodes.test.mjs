// @vitest-environment node
import { expect, test } from 'vitest'
import { isWired, sourceOf, valueUpstream, widgetValue } from '../../web/lib/nodes.mjs'

/** A node with widgets, and wires by the input's name. */
function node(widgets = {}, wires = {}) {
  const inputs = Object.entries(wires).map(([name, source]) => ({ name, link: source && 1 }))
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

test('an input without a node at the other end of its wire is wired all the same', () => {
  const within = node({}, { lora: null, settings: null })
  within.inputs[0].link = 7
  expect([isWired(within, 'lora'), isWired(within, 'settings'), isWired(within, 'clip'), isWired({}, 'lora')]).toEqual([true, false, false, false])
})

test('a value that leaves it to the nodes before is passed over, and so is a bypassed node', () => {
  const first = node({ resolution: 512, step: 64 })
  const bypassed = Object.assign(node({ step: 128 }, { settings: first }), { mode: 4 })
  const last = node({ resolution: 0 }, { settings: bypassed })
  expect(valueUpstream(node({}, { settings: last }), 'settings', 'resolution', [0])).toBe(512)
  expect(valueUpstream(node({}, { settings: last }), 'settings', 'resolution')).toBe(0)
  expect(valueUpstream(node({}, { settings: last }), 'settings', 'step')).toBe(64)
})

test('a value is looked for up the chain, and a ring ends', () => {
  const options = node({}, { settings: node({ resolution: 512 }) })
  expect(valueUpstream(node({}, { settings: options }), 'settings', 'resolution')).toBe(512)
  const ring = node({}, { settings: null })
  ring.getInputNode = () => ring
  expect(valueUpstream(ring, 'settings', 'resolution')).toBeUndefined()
})
