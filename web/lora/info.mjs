/** The LoRA info: what a LoRA file tells of itself, and the way back to the graph that made it. */
import { failure, openDialog } from '../lib/dialog.mjs'
import { definitions, el, fill } from '../lib/dom.mjs'

/**
 * @typedef {{ workflow?: object, prompt?: object }} Graph
 * @typedef {{ name: string, sections: { title: string, facts: [string, string][] }[], trigger: string,
 *             tags: [string, number][], different_tags: number, thumbnails: string[], graph: Graph | null,
 *             entries: Record<string, string> }} Info
 */

/**
 * @param {import('../lib/routes.mjs').Routes} routes
 * @param {string | undefined} name the file's, as ComfyUI lists it
 * @param {string[]} names all that can be looked at
 * @param {(graph: Graph, title: string) => void} onGraph
 */
export async function openLoraInfo(routes, name, names, onGraph) {
  const body = el('div', { class: 'mj-scroller mj-info' })
  const all = name && !names.includes(name) ? [name, ...names] : names
  const chooser = el('select', { class: 'mj-select mj-grows', ariaLabel: 'LoRA' }, ...(name ? [] : [el('option', { value: '' }, 'choose a LoRA')]))
  chooser.append(...all.map((each) => el('option', { value: each, selected: each === name }, each)))
  const restore = el('button', { class: 'mj-button mj-strong', type: 'button', disabled: true }, 'Restore the training graph')
  const dialog = openDialog('LoRA info', [chooser, restore], body)
  let asked = 0
  const show = async () => {
    const mine = ++asked
    restore.disabled = true
    fill(body, el('p', { class: 'mj-hint' }, chooser.value ? 'loading …' : 'It is not known which LoRA the node loads: choose a file, or run the training that is connected.'))
    if (!chooser.value) return
    /** @type {Info | unknown} */
    const found = await routes.get(['loras', chooser.value]).catch((error) => error)
    if (mine !== asked) return
    if (found instanceof Error) return fill(body, failure(found))
    const info = /** @type {Info} */ (found)
    fill(body, ...infoView(info))
    const { graph } = info
    restore.disabled = !graph
    restore.title = graph ? '' : 'This file carries no graph.'
    restore.onclick = () => {
      dialog.close()
      if (graph) onGraph(graph, baseName(info.name))
    }
  }
  chooser.onchange = show
  await show()
}

/** @param {string} name "folder/moon.safetensors" */
function baseName(name) {
  return (name.split(/[\\/]/).pop() ?? name).replace(/\.\w+$/, '')
}

/** @param {Info} info */
function infoView(info) {
  const pictures = info.thumbnails.map((src) => el('img', { src, alt: 'a training image', draggable: false }))
  const sections = info.sections.map(({ title, facts }) => el('section', {}, el('h3', {}, title), definitions(facts)))
  const entries = Object.entries(info.entries)
  return [
    pictures.length > 0 && el('div', { class: 'mj-pictures' }, ...pictures),
    wordsView(info),
    el('div', { class: 'mj-sections' }, ...sections),
    entries.length > 0 && el('details', {}, el('summary', {}, `All ${entries.length} entries of the file`), definitions(entries)),
    !info.graph && el('p', { class: 'mj-hint' }, 'The file carries no graph: it was made by another program, or it was told not to.'),
  ]
}

/** @param {Info} info */
function wordsView({ trigger, tags, different_tags: different }) {
  if (!trigger && !tags.length) return el('p', { class: 'mj-hint' }, 'The file does not tell which words it was trained on.')
  const told = el('span', { class: 'mj-hint', role: 'status' })
  const chips = [
    ...(trigger ? [chip(trigger, 'trigger', told)] : []),
    ...tags.map(([tag, count]) => chip(tag, String(count), told)),
  ]
  const more = different - tags.length
  return el('section', {}, el('h3', {}, 'Words it was trained on ', told), el('div', { class: 'mj-chips' }, ...chips, more > 0 && el('span', { class: 'mj-hint' }, `and ${more} more`)))
}

/**
 * @param {string} words
 * @param {string} note
 * @param {Element} told
 */
function chip(words, note, told) {
  const copy = async () => {
    // not every page may write to the clipboard: one without TLS from another machine may not
    const done = await navigator.clipboard?.writeText(words).then(() => true, () => false)
    fill(told, done ? 'copied' : 'this page may not copy; mark the words instead')
  }
  return el('button', { class: 'mj-chip', type: 'button', title: 'Copy', onclick: copy }, words, el('small', {}, note))
}
