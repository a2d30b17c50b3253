import { beforeEach, describe, expect, test, vi } from 'vitest'
import { CaptionView } from '../../web/dataset/caption.mjs'
import { draftOf, keepDraft } from '../../web/dataset/drafts.mjs'

const HOSTILE = '<img src=x onerror=window.hostile=1>'
const image = (/** @type {string} */ name) => ({ name, caption: '', size: [8, 8], repeats: 1, version: 'v' })
const images = [image('a.png'), image(`${HOSTILE}.png`)]

/** Captions on a disk that others write to as well. */
function diskOf(/** @type {Record<string, string>} */ texts) {
  const caption = (/** @type {string} */ name) => ({ file: name, text: texts[name] ?? '', version: `of ${texts[name]}`, earlier: ['former'], used: '', reason: '' })
  return {
    texts,
    read: vi.fn(async (/** @type {string} */ name) => caption(name)),
    write: vi.fn(async (/** @type {string} */ name, /** @type {string} */ text, /** @type {string} */ version) => {
      if (version !== `of ${texts[name]}`) throw new Error('changed on disk')
      texts[name] = text
      return { ...caption(name), changed: [{ ...image(name), caption: text }], totals: {} }
    }),
  }
}

let disk = diskOf({})
/** @type {any} */
let view

async function open(/** @type {Record<string, string>} */ texts) {
  disk = diskOf(texts)
  view = new CaptionView('place', images, /** @type {any} */ (disk), () => 'data:,', { onBack: vi.fn(), onWritten: vi.fn() })
  document.body.replaceChildren(view.element)
  await view.show(0)
}

function type(/** @type {string} */ text) {
  view.text.value = text
  view.text.dispatchEvent(new Event('input'))
}

const press = (/** @type {string} */ key, options = {}) => view.text.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...options }))
const settled = () => vi.waitFor(() => expect(view.state.textContent).not.toMatch(/…/))

beforeEach(() => images.forEach(({ name }) => keepDraft('place', name, null)))

describe('the caption editor', () => {
  test('has nothing to save before something is typed, whatever the line breaks', async () => {
    await open({ 'a.png': 'one\r\ntwo' })
    expect(view.save.disabled).toBe(true)
    expect(view.state.textContent).toBe('')
    expect(view.notes.textContent).toContain('Only the first line')
  })

  test('saves over the version that it was given, and tells what has changed', async () => {
    await open({ 'a.png': 'old' })
    type('new')
    expect(draftOf('place', 'a.png')).toEqual({ text: 'new', version: 'of old' })
    view.save.click()
    await settled()
    expect(disk.texts['a.png']).toBe('new')
    expect(view.state.textContent).toBe('saved')
    expect(view.onWritten).toHaveBeenCalledWith(expect.objectContaining({ changed: [expect.objectContaining({ name: 'a.png', caption: 'new' })] }))
    expect(draftOf('place', 'a.png')).toBeUndefined()
  })

  test('is not written twice by two presses, and goes on once', async () => {
    await open({ 'a.png': 'old' })
    type('new')
    press('Enter', { ctrlKey: true })
    press('Enter', { ctrlKey: true })
    await vi.waitFor(() => expect(view.at).toBe(1))
    await settled()
    expect(disk.write).toHaveBeenCalledTimes(1)
  })

  test('keeps what was typed while another image is looked at, and finds a change by others then', async () => {
    await open({ 'a.png': 'old', [`${HOSTILE}.png`]: HOSTILE })
    type('mine')
    press('PageDown')
    await settled()
    expect(view.text.value).toBe(HOSTILE)
    expect(view.element.querySelectorAll('img')).toHaveLength(1)
    disk.texts['a.png'] = 'theirs'
    press('PageUp')
    await settled()
    expect(view.text.value).toBe('mine')
    view.save.click()
    await vi.waitFor(() => expect(view.notes.textContent).toContain('theirs'))
    expect(disk.texts['a.png']).toBe('theirs')
    const [take, over] = view.notes.querySelectorAll('button')
    expect(take.textContent).toBe('Take the text on disk')
    over.click()
    await vi.waitFor(() => expect(disk.texts['a.png']).toBe('mine'))
  })

  test('keeps what is typed on while it saves, whatever image is looked at by then', async () => {
    await open({ 'a.png': 'old', [`${HOSTILE}.png`]: 'other' })
    const write = disk.write.getMockImplementation()
    /** @type {(value?: unknown) => void} */
    let finish = () => {}
    const slow = new Promise((resolve) => { finish = resolve })
    disk.write.mockImplementationOnce(async (name, text, version) => {
      await slow
      return /** @type {any} */ (write)(name, text, version)
    })
    type('first')
    view.save.click()
    type('first and more')
    press('PageDown')
    await settled()
    finish()
    await vi.waitFor(() => expect(disk.texts['a.png']).toBe('first'))
    await vi.waitFor(() => expect(draftOf('place', 'a.png')).toEqual({ text: 'first and more', version: 'of first' }))
    press('PageUp')
    await settled()
    expect(view.text.value).toBe('first and more')
    view.save.click()
    await settled()
    expect(disk.texts['a.png']).toBe('first and more')
    expect(draftOf('place', 'a.png')).toBeUndefined()
  })

  test('knows what it saved when somebody has gone and come back meanwhile', async () => {
    await open({ 'a.png': 'old', [`${HOSTILE}.png`]: 'other' })
    /** @type {(value: any) => void} */
    let finish = () => {}
    disk.write.mockImplementationOnce(() => new Promise((resolve) => { finish = resolve }))
    type('first')
    view.save.click()
    type('second')
    press('PageDown')
    press('PageUp')
    await settled()
    disk.texts['a.png'] = 'first'
    finish(await disk.read('a.png'))
    await vi.waitFor(() => expect(disk.read).toHaveBeenCalledTimes(5))
    await settled()
    expect(view.text.value).toBe('second')
    view.save.click()
    await settled()
    expect(disk.texts['a.png']).toBe('second')
  })

  test('puts the former text back for saving', async () => {
    await open({ 'a.png': 'worse' })
    view.undo.click()
    expect(view.text.value).toBe('former')
    expect(view.save.disabled).toBe(false)
    expect(view.undo.disabled).toBe(true)
  })

  test('only shows what cannot be edited, and says why', async () => {
    await open({ 'a.png': 'from a table' })
    disk.read.mockResolvedValue({ file: '', text: 'from a table', version: '', earlier: [], used: 'from a table', reason: 'It stands in a table.' })
    await view.show(0)
    expect(view.text.readOnly).toBe(true)
    expect(view.notes.textContent).toBe('It stands in a table.')
    press('Enter', { ctrlKey: true })
    expect(disk.write).not.toHaveBeenCalled()
  })
})
