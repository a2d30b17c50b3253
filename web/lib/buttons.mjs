/** A button on a node that is neither saved with the workflow nor sent with the prompt. */

/**
 * @param {any} node
 * @param {string} label
 * @param {() => void} onPress
 */
export function addButton(node, label, onPress) {
  const button = node.addWidget('button', label, '', onPress, { serialize: false })
  // the option keeps it out of the prompt, this out of the saved workflow: either would change what is cached
  button.serialize = false
  return button
}
