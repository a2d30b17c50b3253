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
const GRID = {
  name: 'grid',
  axes: [{ parameter: 'cfg', label: 'CFG', values: [1, 2, 3], texts: ['1', '2', '3'] }],
  cells: [{ index: [0], values: {}, key: 'x' }, { index: [1], values: {}, error: 'no memory' }, { index: [2], values: {}, key: 'z' }],
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

  test.each([
    ['', 'This figure shows no sweep'],
    [undefined, 'queue the graph first'],
  ])('says of a figure that shows no sweep, or that never ran, that it has none, and offers the sweeps', async (name, words) => {
    const { routes, come } = slowRoutes()
    openViewer(routes, name, vi.fn())
    await settled()
    expect(shown()).toContain(words)
    expect([chooser().value, ...[...chooser().options].map(({ value }) => value)]).toEqual(['', '', 'a', 'b'])
    choose('b')
    come('b')
    await settled()
    expect(document.querySelectorAll('dialog [role=gridcell]')).toHaveLength(1)
  })

  test('compares cells that have an image and no others', async () => {
    const get = async (/** @type {string[]} */ [, name]) => (name ? GRID : { sweeps: ['grid'] })
    openViewer(/** @type {any} */ ({ get, url: (/** @type {string[]} */ parts) => `data:,${parts.join('/')}` }), 'grid', vi.fn())
    await settled()
    const click = (/** @type {number} */ at, shiftKey = true) => document.querySelectorAll('dialog [role=gridcell]')[at].dispatchEvent(new MouseEvent('click', { shiftKey }))
    const compared = () => [...document.querySelectorAll('.mj-compare img')].map((image) => image.getAttribute('src'))
    click(0, false)
    click(1)
    expect(compared()).toEqual([])
    click(2)
    expect(compared()).toEqual([])
    click(0)
    expect(compared()).toEqual(['data:,cells/x', 'data:,cells/z'])
  })
})
