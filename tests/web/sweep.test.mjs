// @vitest-environment node
import { describe, expect, test } from 'vitest'
import { factsOf, firstView, gridOf, nameOf, placed } from '../../web/figure/sweep.mjs'

/** A manifest as the server writes it: cells in the order of the axes, the last one running fastest. */
function sweepOf(...sizes) {
  const axes = sizes.map((size, number) => ({
    parameter: `p${number}`, label: `P${number}`,
    values: [...Array(size).keys()], texts: [...Array(size).keys()].map((at) => `${'abcd'[number]}${at}`),
  }))
  const cells = axes.reduce((found, axis) => found.flatMap((index) => axis.values.map((at) => [...index, at])), [[]])
  return { name: 's', axes, cells: cells.map((index) => ({ index, values: {}, key: index.join('') })) }
}

const keys = (sweep, view) => gridOf(sweep, view).cells.map((line) => line.map((cell) => cell.key))

describe('the grid', () => {
  test('of no axis is its only cell', () => {
    const sweep = sweepOf()
    expect(gridOf(sweep, firstView(sweep))).toEqual({ columns: [''], rows: [''], cells: [[sweep.cells[0]]] })
    expect(nameOf(sweep, sweep.cells[0])).toBe('the only cell')
  })

  test('of one axis is a row', () => {
    const sweep = sweepOf(3)
    expect(keys(sweep, firstView(sweep))).toEqual([['0', '1', '2']])
  })

  test('of two axes puts the first right and the second down', () => {
    const sweep = sweepOf(3, 2)
    expect(gridOf(sweep, firstView(sweep)).columns).toEqual(['a0', 'a1', 'a2'])
    expect(keys(sweep, firstView(sweep))).toEqual([['00', '10', '20'], ['01', '11', '21']])
  })

  test('of more axes shows the others at the values chosen', () => {
    const sweep = sweepOf(2, 2, 2, 3)
    expect(keys(sweep, { columns: 3, rows: 1, at: [1, 0, 1, 0] })).toEqual([['1010', '1011', '1012'], ['1110', '1111', '1112']])
  })
})

test('an axis that is put where it was not takes the place, and the two change places where it was on the other', () => {
  const view = { columns: 0, rows: 1, at: [0, 0, 0] }
  expect(placed(view, 'columns', 1)).toEqual({ columns: 1, rows: 0, at: [0, 0, 0] })
  expect(placed(view, 'rows', 2)).toEqual({ columns: 0, rows: 2, at: [0, 0, 0] })
  expect(placed(view, 'rows', 1)).toEqual(view)
})

test('a cell is named by its axes', () => {
  const sweep = sweepOf(2, 2)
  expect(nameOf(sweep, sweep.cells[2])).toBe('P0 a1, P1 b0')
})

test('facts begin with the axes, leave out what is empty or told already, and end with how it was made', () => {
  const sweep = sweepOf(2)
  const cell = { ...sweep.cells[1], seconds: 1.5, source: 'made', how: '', parameters: { p0: 1, sampler_name: 'euler', negative: '' } }
  expect(factsOf(sweep, cell)).toEqual([['P0', 'a1'], ['sampler name', 'euler'], ['seconds', 1.5], ['from', 'made']])
  expect(factsOf(sweep, { ...cell, error: 'no memory' }).at(-1)).toEqual(['error', 'no memory'])
})
