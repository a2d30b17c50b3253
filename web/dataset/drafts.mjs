/** Captions that were typed and not saved: they outlive the dialog, though not the page. */

/** @type {Map<string, { text: string, version: string }>} */
const drafts = new Map()
const keyOf = (/** @type {string} */ id, /** @type {string} */ name) => `${id}\n${name}`

/** @param {string} id @param {string} name */
export function draftOf(id, name) {
  return drafts.get(keyOf(id, name))
}

/**
 * @param {string} id the dataset's
 * @param {string} name
 * @param {{ text: string, version: string } | null} draft what was typed, and the caption that it was typed over
 */
export function keepDraft(id, name, draft) {
  if (draft) drafts.set(keyOf(id, name), draft)
  else drafts.delete(keyOf(id, name))
}
