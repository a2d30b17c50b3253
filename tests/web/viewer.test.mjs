import { beforeEach, describe, expect, test, vi } from 'vitest'
import { openViewer } from '../../web/figure/viewer.mjs'

/** Observers that still look at something. */
const looking = new Set()
vi.stubGlobal('IntersectionObserver', class {
  observe() {
    looking.add(this)
  }

  disconnect() {
    looking.delete(this)
  }
})
// jsdom draws nothing: its dialogs know neither of these
HTMLDialogElement.prototype.showModal = function () {
  this.open = true
}
HTMLDialogElement.prototype.close = function () {
  this.open = false
  this.dispatchEvent(new Event('close'))
}

const sweep = (/** @type {string} */ name) => ({ name, axes: [], cells: [{ index: [], values: {}, key: name, parameters: { prompt: name } }] })

/** Routes whose sweeps come when the test lets them. */
function slowRoutes() {
  /** @type {Map<string, () => void>} */
  const waiting = new Map()
  const get = (/** @type {string[]} */ [, name]) =>
    name === undefined
      ? Promise.resolve({ sweeps: ['a', 'b'] })
      : new Promise((resolve, reject) => {
          waiting.set(name, () => (name === 'broken' ? reject(new Error('It is broken.')) : resolve(sweep(name))))
        })
  return { routes: /** @type {any} */ ({ get, url: () => 'data:,' }), come: (/** @type {string} */ name) => waiting.get(name)?.() }
}
const settled = () => new Promise((done) => { setTimeout(done) })
const chooser = () => /** @type {HTMLSelectElement} */ (document.querySelector('dialog select'))
const choose = (/** @type {string} */ name) => {
  if (![...chooser().options].some(({ value }) => value === name)) chooser().append(new Option(name, name))
  chooser().value = name
  chooser().dispatchEvent(new Event('change'))
}
const shown = () => document.querySelector('dialog .mj-viewer')?.textContent

beforeEach(() => {
  document.querySelectorAll('dialog').forEach((dialog) => dialog.close())
  looking.clear()
})

describe('the figure viewer', () => {
  test('shows what was chosen last, whatever comes first', async () => {
    const { routes, come } = slowRoutes()
    openViewer(routes, 'a', vi.fn())
    await settled()
    choose('b')
    choose('broken')
    choose('b')
    come('b')
    await settled()
    come('a')
    come('broken')
    await settled()
    const cell = document.querySelector('dialog [role=gridcell]')
    cell?.dispatchEvent(new FocusEvent('focus'))
    expect(shown()).toContain('promptb')
    expect(looking.size).toBe(1)
  })

  test('that is closed while it loads leaves nobody looking', async () => {
    const { routes, come } = slowRoutes()
    openViewer(routes, 'a', vi.fn())
    await settled()
    document.querySelector('dialog')?.close()
    come('a')
    await settled()
    expect(looking.size).toBe(0)
  })

  test('says what is wrong with a sweep, and shows another one then', async () => {
    const { routes, come } = slowRoutes()
    openViewer(routes, 'broken', vi.fn())
    await settled()
    come('broken')
    await settled()
    expect(shown()).toBe('It is broken.')
    choose('a')
    come('a')
    await settled()
    expect(document.querySelectorAll('dialog [role=gridcell]')).toHaveLength(1)
  })
})
