// @vitest-environment node
import { expect, test, vi } from 'vitest'
import { addButton } from '../../web/lib/buttons.mjs'

test('a button is kept out of the saved workflow and out of the prompt', () => {
  // as the editor makes a widget
  const node = { addWidget: (type, name, value, callback, options) => ({ type, name, value, callback, options }) }
  const onPress = vi.fn()
  const button = addButton(node, 'Explore', onPress)
  expect(button).toMatchObject({ type: 'button', name: 'Explore', serialize: false, options: { serialize: false } })
  button.callback()
  expect(onPress).toHaveBeenCalledOnce()
})
