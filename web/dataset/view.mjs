/**
 * A dataset as the server shows it, and what of it is asked for.
 *
 * @typedef {{ name: string, caption: string, size: [number, number], repeats: number, version: string,
 *             problems?: string[], regularisation?: boolean }} Picture
 * @typedef {{ images: number, with_repeats: number, captioned: number, masks: number, regularisation: number,
 *             problems: number }} Totals
 * @typedef {{ id: string, read_only: string, totals: Totals, images: Picture[],
 *             others: { name: string, told: string }[] }} View
 * @typedef {{ images: number, with_repeats: number, lost: number, enlarged: number }} Counts
 * @typedef {{ told: string, buckets: (Counts & { size: [number, number] })[], all: Counts }} Buckets `told`: of what kind they are
 * @typedef {{ title: string, id?: string, query?: Record<string, string | number> }} Source
 */

/**
 * @param {Picture[]} images
 * @param {string} words all of which must stand in the caption or the name, in any order
 * @param {boolean} onlyProblems
 */
export function filtered(images, words, onlyProblems) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean)
  return images.filter((image) => {
    const text = `${image.caption}\n${image.name}`.toLowerCase()
    return (!onlyProblems || image.problems) && wanted.every((word) => text.includes(word))
  })
}

/**
 * @param {Totals} totals
 * @returns {[string, unknown][]}
 */
export function totalsTold(totals) {
  const { images, with_repeats, captioned, masks, regularisation, problems } = totals
  return [
    ['images', images],
    ['in an epoch', with_repeats],
    ['with a caption', captioned],
    ...(masks ? [/** @type {[string, unknown]} */ (['with a mask', masks])] : []),
    ...(regularisation ? [/** @type {[string, unknown]} */ (['for regularisation', regularisation])] : []),
    ['problems', problems],
  ]
}
