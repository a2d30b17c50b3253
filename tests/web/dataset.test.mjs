// @vitest-environment node
import { describe, expect, test } from 'vitest'
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
