import { expect, test, vi } from 'vitest'
import { definitions, el, fill, readable } from '../../web/lib/dom.mjs'

const HOSTILE = '<img src=x onerror=window.hostile=1>'

test('an element has its class, its data, its properties and its children in order', () => {
  const pressed = vi.fn()
  const button = el('button', { class: 'one two', data: { mark: 'A' }, type: 'button', onclick: pressed }, 'text ', el('b', {}, 7))
  expect(button.outerHTML).toBe('<button class="one two" data-mark="A" type="button">text <b>7</b></button>')
  button.click()
  expect(pressed).toHaveBeenCalledOnce()
})

test('children that are nothing are left out, zero is not', () => {
  expect(el('p', {}, null, undefined, false, 0, '').textContent).toBe('0')
})

test('hostile texts stay texts, as a child, a title and data', () => {
  const element = el('p', { title: HOSTILE, data: { name: HOSTILE } }, HOSTILE)
  expect(element.children).toHaveLength(0)
  expect([element.textContent, element.title, element.dataset.name]).toEqual([HOSTILE, HOSTILE, HOSTILE])
})

test('filling replaces what was there', () => {
  const list = el('ul', {}, el('li', {}, 'old'))
  fill(list, el('li', {}, 'new'), null, HOSTILE)
  expect([...list.childNodes].map((node) => node.textContent)).toEqual(['new', HOSTILE])
})

test('definitions pair names with readable values', () => {
  const list = definitions([['cfg', 0.1 + 0.2], [HOSTILE, '']])
  expect([...list.children].map((each) => [each.tagName, each.textContent])).toEqual([
    ['DT', 'cfg'], ['DD', '0.3'], ['DT', HOSTILE], ['DD', '–'],
  ])
})

test.each([
  [0.1 + 0.2, '0.3'],
  [1e-7, '1e-7'],
  [12345678, '12345678'],
  ['', '–'],
  [null, '–'],
  [undefined, '–'],
  [false, 'false'],
  [[1, 'a', null], '1, a, –'],
  [{ a: 1 }, '{"a":1}'],
])('%j reads %s', (value, text) => expect(readable(value)).toBe(text))
