// @vitest-environment node
import { describe, expect, test } from 'vitest'
import { bucketsFor } from '../../web/dataset/settings.mjs'
import { filtered, totalsTold } from '../../web/dataset/view.mjs'

const images = [
  { name: 'a.png', caption: 'A full Moon, craters', size: [8, 8], repeats: 1, version: '' },
  { name: '10_moon/b.png', caption: '', size: [8, 8], repeats: 10, version: '', problems: ['no caption'] },
  { name: 'c.png', caption: 'craters', size: [8, 8], repeats: 1, version: '' },
]
const names = (/** @type {string} */ words, onlyProblems = false) => filtered(images, words, onlyProblems).map((image) => image.name)

describe('the filter', () => {
  test('of nothing keeps all, in their order', () => {
    expect(names('  ')).toEqual(['a.png', '10_moon/b.png', 'c.png'])
  })

  test('wants every word, in caption or name, whatever the case', () => {
    expect(names('moon')).toEqual(['a.png', '10_moon/b.png'])
    expect(names('CRATERS full')).toEqual(['a.png'])
    expect(names('craters nowhere')).toEqual([])
  })

  test('takes letters as they are, not as a pattern', () => {
    expect(names('.*')).toEqual([])
  })

  test('keeps what has problems', () => {
    expect(names('', true)).toEqual(['10_moon/b.png'])
  })
})

test('totals leave out what there is none of', () => {
  const totals = { images: 3, with_repeats: 12, captioned: 2, masks: 0, regularisation: 1, problems: 1 }
  expect(totalsTold(totals).map(([name]) => name)).toEqual(['images', 'in an epoch', 'with a caption', 'for regularisation', 'problems'])
})

/** A node with widgets, settings on its wire, and nodes that use it. */
function node(widgets = {}, settings = null, more = {}) {
  return {
    widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
    inputs: [{ name: 'settings', link: settings && 1 }],
    getInputNode: () => settings,
    ...more,
  }
}

describe('the buckets that are shown', () => {
  const plain = { resolution: 1024, choices: {}, note: '' }

  test('are the usual ones where no wire says anything', () => {
    expect(bucketsFor(node())).toEqual(plain)
    expect(bucketsFor(node({}, null, { getOutputNodes: () => [null, node()] }))).toEqual(plain)
  })

  test('are those of the options, and of the settings before them', () => {
    const settings = node({ resolution: 512 })
    const before = node({ buckets: 'as given', bucket_upscale: 'on', bucket_step: 32, bucket_min: 0 }, settings)
    const after = node({ buckets: 'as given', bucket_upscale: 'off', bucket_step: 0, bucket_min: 128 }, before)
    const wanted = { resolution: 512, choices: { bucket_upscale: 'off', bucket_step: 32, bucket_min: 128 }, note: '' }
    expect(bucketsFor(node({}, after))).toEqual(wanted)
    // of the node that uses it
    expect(bucketsFor(node({}, null, { getOutputNodes: () => [node(), node({}, after)] }))).toEqual(wanted)
  })

  test('of a kohya configuration are not known before it runs, which is told', () => {
    const kohya = node({ resolution: 0 }, null, { comfyClass: 'MjesecLoadKohyaConfig' })
    expect(bucketsFor(node({}, kohya))).toEqual({ ...plain, note: expect.stringContaining('kohya configuration') })
    kohya.widgets[0].value = 768
    expect(bucketsFor(node({}, kohya)).resolution).toBe(768)
  })
})
