/** Beside the contact sheet: what is in the dataset, its buckets at a resolution, and what is wrong with other files. */
import { failure } from '../lib/dialog.mjs'
import { el, fill } from '../lib/dom.mjs'

const MOST_NAMED = 200

/**
 * @param {import('./view.mjs').View} view
 * @param {import('./settings.mjs').BucketChoice} choice
 * @param {(resolution: number) => Promise<import('./view.mjs').Buckets>} getBuckets
 * @param {HTMLElement} totals
 */
export function sideView(view, { resolution, note }, getBuckets, totals) {
  const table = el('div', {}, el('p', { class: 'mj-hint' }, 'loading …'))
  const side = el('input', { class: 'mj-input mj-short', type: 'number', min: '64', max: '4096', step: '64', value: String(resolution), ariaLabel: 'Resolution' })
  let asked = 0
  const show = async () => {
    const mine = ++asked
    const buckets = await getBuckets(Number(side.value)).then(bucketTable, failure)
    if (mine === asked) fill(table, buckets)
  }
  side.onchange = show
  show()
  return el(
    'aside',
    { class: 'mj-side mj-wide' },
    totals,
    view.read_only && el('p', { class: 'mj-hint' }, `Captions are only shown. ${view.read_only}`),
    el('section', {}, el('label', { class: 'mj-line' }, el('strong', {}, 'Buckets'), ' at ', side, ' pixels'), table, note && el('p', { class: 'mj-hint' }, note)),
    view.others.length > 0 && othersView(view.others)
  )
}

/** @param {import('./view.mjs').Buckets} found */
function bucketTable({ told, buckets, all }) {
  const row = (/** @type {string} */ name, /** @type {import('./view.mjs').Counts} */ counts) =>
    el('tr', {}, el('th', { scope: 'row' }, name), ...[counts.images, counts.with_repeats, `${counts.lost} %`].map((value) => el('td', {}, value)))
  const heads = ['width × height', 'images', 'in an epoch', 'cropped'].map((text) => el('th', { scope: 'col' }, text))
  const enlarged = all.enlarged > 0 && el('p', { class: 'mj-hint' }, `${all.enlarged} images are made larger than they are.`)
  return el(
    'div',
    {},
    el('p', { class: 'mj-hint' }, told),
    el(
      'table',
      { class: 'mj-table' },
      el('thead', {}, el('tr', {}, ...heads)),
      el('tbody', {}, ...buckets.map((bucket) => row(bucket.size.join(' × '), bucket))),
      el('tfoot', {}, row('all', all))
    ),
    enlarged
  )
}

/** @param {{ name: string, told: string }[]} others */
function othersView(others) {
  const shown = others.slice(0, MOST_NAMED).map(({ name, told }) => el('li', {}, el('strong', {}, name), el('br'), told))
  const more = others.length - shown.length
  return el('section', {}, el('strong', {}, 'Other files'), el('ul', { class: 'mj-problems' }, ...shown), more > 0 && `and ${more} more`)
}
