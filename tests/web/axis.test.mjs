// @vitest-environment node
import { expect, test } from 'vitest'
import { choicesFor, merged, namesIn, optionsOf, rowsFor, runsOf, written } from '../../web/axis/names.mjs'

/** @param {Record<string, unknown>} answers by route */
function host(answers) {
  return {
    apiURL: (/** @type {string} */ route) => route,
    fetchApi: async (/** @type {string} */ route) => new Response(JSON.stringify(answers[route] ?? {}), { status: route in answers ? 200 : 404 }),
  }
}

const LORAS = ['(lora input)', 'a.safetensors', 'moon/b-000001.safetensors', 'moon/b.safetensors', 'c-step00000500.safetensors', 'd-best.safetensors']
const lora = { '/object_info/MjesecLoadLora': { MjesecLoadLora: { input: { required: { lora_name: ['COMBO', { options: LORAS }] } } } } }

test('options are read in both of the forms that ComfyUI gives them', () => {
  expect(optionsOf([['a', 'b'], { default: 'a' }])).toEqual(['a', 'b'])
  expect(optionsOf(['COMBO', { options: ['a', 'b'] }])).toEqual(['a', 'b'])
})

test('files are listed without what stands for none, and runs by what they left on their way', async () => {
  expect(await choicesFor(host(lora), 'LoRA file')).toEqual({ names: LORAS.slice(1), what: 'LoRA files', single: false })
  const runs = ['c.safetensors', 'moon/b.safetensors']
  expect(await choicesFor(host(lora), 'LoRA file: all epochs of a run')).toEqual({ names: runs, what: 'runs', single: true })
  expect(runsOf(['a.safetensors', 'a-1.safetensors'])).toEqual([])
})

test('numbers have nothing to choose, and a failure is told', async () => {
  expect(await choicesFor(host({}), 'CFG scale')).toBeNull()
  await expect(choicesFor(host({}), 'checkpoint')).rejects.toThrow('ComfyUI answered 404 to a question for its checkpoints.')
})

test('names are written as the axis reads them', () => {
  expect(written(['a', 'b'])).toBe('a\nb')
  expect(written(['b, "c"'])).toBe('"b, ""c"""')
  expect(written(['moon v1,2.safetensors', 'a'])).toBe('"moon v1,2.safetensors"\na')
})

test('names are found again in what was written, by hand too', () => {
  const names = ['a', 'moon v1,2.safetensors', 'b, "c"']
  for (const some of [names, names.slice(1, 2), names.slice(2)]) expect([...namesIn(written(some), names)]).toEqual(some)
  expect([...namesIn('a, moon v1 ,\r\nmoon v1,2.safetensors\n\n', names)]).toEqual(['a', 'moon v1', 'moon v1,2.safetensors'])
})

test('what stands in an axis keeps its order and its place among the names, listed or not', () => {
  const names = ['ddim', 'euler', 'heun', 'uni_pc']
  const values = 'uni_pc, euler, gone'
  const rows = rowsFor(values, { names, what: 'samplers', single: false })
  expect(rows.filter(({ listed }) => !listed)).toEqual([{ name: 'gone', standing: true, listed: false }])
  const ticked = rows.filter(({ standing }) => standing).map(({ name }) => name)
  expect(merged(values, ticked)).toEqual(['uni_pc', 'euler', 'gone'])
  expect(merged(values, [...names, 'gone'])).toEqual(['uni_pc', 'euler', 'gone', 'ddim', 'heun'])
  expect(merged(values, ['ddim', 'euler'])).toEqual(['euler', 'ddim'])
  expect(merged('b, "c"\na, x', ['a, x', 'b, "c"'])).toEqual(['b, "c"', 'a, x'])
})

test('values of another parameter do not stand, and a run has no other beside it', () => {
  const rows = (/** @type {boolean} */ single) => rowsFor('1, 4', { names: ['a'], what: 'samplers', single })
  expect(rows(false)).toEqual([...['1', '4'].map((name) => ({ name, standing: false, listed: false })), { name: 'a', standing: false, listed: true }])
  expect(rows(true)).toEqual([{ name: 'a', standing: false, listed: true }])
})
