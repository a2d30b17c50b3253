/** Choosing an axis's values from what ComfyUI lists, in place of typing names. */
import { failure, openDialog } from '../lib/dialog.mjs'
import { el, fill } from '../lib/dom.mjs'
import { choicesFor, merged, rowsFor, written } from './names.mjs'

const NUMBERS = 'This parameter takes numbers or texts: write them into values, such as 1, 4, 7 or 1-10(+3) or 0-1[5].'

/**
 * @param {import('../lib/routes.mjs').Api} api
 * @param {string} parameter as Sweep Axis shows it
 * @param {string} values as they stand in the node
 * @param {(values: string) => void} onChosen
 */
export async function openChooser(api, parameter, values, onChosen) {
  const body = el('div', { class: 'mj-scroller mj-choices' }, el('p', { class: 'mj-hint' }, 'loading …'))
  const search = el('input', { class: 'mj-select mj-grows', type: 'search', placeholder: 'filter', ariaLabel: 'Filter' })
  const use = el('button', { class: 'mj-button mj-strong', type: 'button', disabled: true }, 'Use')
  const dialog = openDialog(parameter, [search, use], body)
  dialog.classList.add('mj-narrow')
  const choose = (/** @type {string[]} */ names) => {
    dialog.close()
    onChosen(written(names))
  }
  try {
    const choice = await choicesFor(api, parameter)
    if (!choice?.names.length) {
      const none = choice?.single ? 'No run has saved a LoRA on its way yet: set save_every_epochs in Training Settings.' : `ComfyUI lists no ${choice?.what}.`
      fill(body, el('p', { class: 'mj-hint' }, choice ? none : NUMBERS))
      return
    }
    const shown = rowsFor(values, choice)
    const rows = shown.map((each) => row(each, choice.single, choose))
    const ticked = () => merged(values, shown.filter((_, at) => rows[at].querySelector('input')?.checked).map(({ name }) => name))
    fill(body, ...rows)
    body.onchange = () => {
      use.disabled = !ticked().length
      use.textContent = `Use ${ticked().length || ''}`.trim()
    }
    body.onchange(new Event('change'))
    use.hidden = choice.single
    use.onclick = () => choose(ticked())
    search.oninput = () => rows.forEach((each, at) => { each.hidden = !shown[at].name.toLowerCase().includes(search.value.toLowerCase()) })
    search.focus()
  } catch (error) {
    fill(body, failure(error))
  }
}

/**
 * @param {import('./names.mjs').Row} shown
 * @param {boolean} single a click on it is the choice
 * @param {(names: string[]) => void} choose
 * @returns {HTMLElement}
 */
function row({ name, standing, listed }, single, choose) {
  if (single) return el('button', { class: 'mj-button', type: 'button', onclick: () => choose([name]) }, name)
  return el('label', {}, el('input', { type: 'checkbox', checked: standing }), name, !listed && el('small', { class: 'mj-hint' }, 'not listed now'))
}
