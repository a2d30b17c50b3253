/** A dialog over the whole editor: Escape closes it, focus stays in it and goes back afterwards. */
import { el } from './dom.mjs'

/**
 * @param {string} title
 * @param {HTMLElement[]} tools what stands beside the title
 * @param {HTMLElement} content
 * @returns {HTMLDialogElement} open; it leaves the page when it is closed and then fires "close"
 */
export function openDialog(title, tools, content) {
  const close = el('button', { class: 'mj-button', type: 'button', title: 'Close (Esc)', ariaLabel: 'Close', onclick: () => dialog.close() }, '✕')
  const head = el('header', { class: 'mj-dialog-head' }, el('h2', {}, title), ...tools, close)
  const dialog = el('dialog', { class: 'mj-dialog', ariaLabel: title }, head, content)
  // the editor listens to keys on the window: what is typed here is not meant for it
  for (const type of ['keydown', 'keyup', 'keypress', 'paste', 'copy', 'cut', 'wheel']) {
    dialog.addEventListener(type, (event) => event.stopPropagation())
  }
  // not left to the browser: the editor cancels the Escape key's default where nothing has the focus, and leaves the
  // subgraph that is shown
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    // closed already: "close" comes a moment later, and a second Escape meanwhile is the editor's
    if (event.key !== 'Escape' || !dialog.open) return
    event.stopImmediatePropagation()
    event.preventDefault()
    dialog.close()
  }
  window.addEventListener('keydown', onKey, true)
  dialog.addEventListener('close', () => {
    window.removeEventListener('keydown', onKey, true)
    dialog.remove()
  })
  document.body.append(dialog)
  dialog.showModal()
  return dialog
}

/**
 * A line that says what went wrong, in place of what was asked for.
 *
 * @param {unknown} error
 */
export function failure(error) {
  return el('p', { class: 'mj-error', role: 'alert' }, error instanceof Error ? error.message : String(error))
}
