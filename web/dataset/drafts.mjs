/** Captions that were typed and not saved: they outlive the dialog and a reload of the page, though not its tab. */

const keyOf = (/** @type {string} */ place, /** @type {string} */ name) => `mjesec.draft\n${place}\n${name}`

/**
 * @param {string} place names the dataset
 * @param {string} name
 * @returns {{ text: string, version: string } | undefined}
 */
export function draftOf(place, name) {
  const kept = sessionStorage.getItem(keyOf(place, name))
  return kept === null ? undefined : JSON.parse(kept)
}

/**
 * @param {string} place names the dataset
 * @param {string} name
 * @param {{ text: string, version: string } | null} draft what was typed, and the caption that it was typed over
 */
export function keepDraft(place, name, draft) {
  if (draft) sessionStorage.setItem(keyOf(place, name), JSON.stringify(draft))
  else sessionStorage.removeItem(keyOf(place, name))
}
