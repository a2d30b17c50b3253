/** Builds elements. Text only ever becomes text: nothing here, and nobody else, parses HTML. */

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {Record<string, unknown> & { class?: string, data?: Record<string, string> }} Properties
 */

/**
 * An element with properties (`onclick`, `value`, `ariaLabel` …), `class` and `data` for its dataset.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} [properties]
 * @param {...Child} children strings become text nodes; null and false are left out
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  const { class: classes, data, ...rest } = properties
  if (classes) element.className = classes
  Object.assign(element.dataset, data)
  Object.assign(element, rest)
  fill(element, ...children)
  return element
}

/**
 * Replaces what an element holds.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren(
    ...children.filter((child) => child != null && child !== false).map((child) => (child instanceof Node ? child : String(child)))
  )
}

/**
 * A table of names and values, as a definition list.
 *
 * @param {Iterable<[string, unknown]>} entries
 * @returns {HTMLDListElement}
 */
export function definitions(entries) {
  return el('dl', { class: 'mj-facts' }, ...[...entries].flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, readable(value))]))
}

/**
 * @param {unknown} value
 * @returns {string} numbers without the noise of binary fractions, lists with commas
 */
export function readable(value) {
  if (typeof value === 'number') return String(Number(value.toPrecision(8)))
  if (value === '' || value == null) return '–'
  if (Array.isArray(value)) return value.map(readable).join(', ')
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
