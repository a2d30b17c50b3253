/** Captions that were typed and not saved: they outlive the dialog, though not the page. */

/** @type {Map<string, { text: string, version: string }>} */
const drafts = new Map()
const keyOf = (/** @type {string} */ place, /** @type {string} */ name) => `${place}\n${name}`

/** @param {string} place @param {string} name */
export function draftOf(place, name) {
  return drafts.get(keyOf(place, name))
}

/**
 * @param {string} place names the dataset
 * @param {string} name
 * @param {{ text: string, version: string } | null} draft what was typed, and the caption that it was typed over
 */
export function keepDraft(place, name, draft) {
  if (draft) drafts.set(keyOf(place, name), draft)
  else drafts.delete(keyOf(place, name))
}
