// @vitest-environment node
import { expect, test } from 'vitest'
import { clock, number } from '../../web/lib/format.mjs'

test.each([
  [0, '0:00'],
  [65, '1:05'],
  [59.6, '1:00'],
  [7384, '2:03:04'],
  [-3, '0:00'],
  [null, '–'],
  [undefined, '–'],
  [Infinity, '–'],
  [NaN, '–'],
])('%s seconds read %s', (seconds, text) => expect(clock(seconds)).toBe(text))

test.each([
  [0, 3, '0'],
  [0.123456, 3, '0.123'],
  [1234.5, 3, '1230'],
  [0.00012345, 3, '1.2e-4'],
  [-0.0005, 3, '-5.0e-4'],
  [2, 5, '2'],
  [null, 3, '–'],
  [NaN, 3, '–'],
])('%s with %s digits reads %s', (value, digits, text) => expect(number(value, digits)).toBe(text))
