import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { difference } from '../../web/figure/difference.mjs'
import { tileSize, Tiles } from '../../web/figure/tiles.mjs'

const pixels = (...values) => new Uint8ClampedArray(values)

test('the difference of two pictures is counted over colours, not over transparency', () => {
  const { data, mean, most } = difference(pixels(10, 20, 30, 255, 0, 0, 0, 255), pixels(16, 20, 20, 0, 0, 0, 2, 255), 10)
  expect([...data]).toEqual([60, 0, 100, 255, 0, 0, 20, 255])
  expect([mean, most]).toEqual([3, 10])
})

test('what is amplified beyond white is white', () => {
  expect([...difference(pixels(0, 0, 0, 255), pixels(200, 0, 0, 255), 20).data]).toEqual([255, 0, 0, 255])
})

test('identical pictures differ by nothing', () => {
  expect(difference(pixels(1, 2, 3, 255), pixels(1, 2, 3, 255), 20)).toMatchObject({ mean: 0, most: 0 })
})

test.each([[10, 64], [64, 64], [65, 128], [513, 1024], [9999, 1024]])('%i pixels are sharp with a tile of %i', (width, size) => {
  expect(tileSize(width)).toBe(size)
})

/** The browser's observer, which here tells what the test says. */
class Observer {
  observed = new Set()
  constructor(onSeen) {
    this.tell = (image, isIntersecting) => onSeen([{ target: image, isIntersecting }])
  }
  observe(image) {
    this.observed.add(image)
  }
  disconnect() {
    this.observed.clear()
  }
}

beforeEach(() => vi.stubGlobal('IntersectionObserver', Observer))
afterEach(() => vi.unstubAllGlobals())

test('a tile is fetched once it is seen, anew when it is shown larger, and not while it is out of view', () => {
  const tiles = new Tiles(document.body, (key, size) => `http://host/${key}?${size}`)
  const [seen, left, never] = ['a', 'b', 'c'].map((key) => {
    const image = document.createElement('img')
    tiles.add(image, key)
    return image
  })
  tiles.observer.tell(seen, true)
  tiles.observer.tell(left, true)
  tiles.observer.tell(left, false)
  expect([seen.src, left.src, never.src]).toEqual(['http://host/a?128', 'http://host/b?128', ''])
  tiles.resize(100)
  expect(seen.src).toBe('http://host/a?128')
  tiles.resize(300)
  expect([seen.src, left.src, never.src]).toEqual(['http://host/a?512', 'http://host/b?128', ''])
  tiles.observer.tell(left, true)
  expect(left.src).toBe('http://host/b?512')
  tiles.clear()
  tiles.resize(1000)
  expect(seen.src).toBe('http://host/a?512')
  expect(tiles.observer.observed.size).toBe(0)
})
