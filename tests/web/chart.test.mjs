import { expect, test, vi } from 'vitest'

const plots = vi.hoisted(() => ({ alive: new Set() }))
vi.mock('../../web/vendor/uplot.mjs', () => ({
  default: class {
    over = document.createElement('div')
    hooks = {}
    cursor = {}
    series = [{}, { label: 'loss', stroke: 'red' }]
    setData = vi.fn()
    setScale = vi.fn()
    redraw = vi.fn()
    constructor() {
      plots.alive.add(this)
    }

    destroy() {
      plots.alive.delete(this)
    }
  },
}))
vi.stubGlobal('ResizeObserver', class { observe() {} disconnect() {} })
const { LossChart } = await import('../../web/training/chart.mjs')

const curve = /** @type {any} */ ({ groups: () => ['unet'], columns: () => ({ steps: [], loss: [], smoothed: [], validation: [], rates: [[]] }) })

test('no plot is left of a chart that shows nothing, and it can be drawn again', () => {
  const chart = new LossChart()
  chart.draw(curve)
  chart.draw(curve)
  expect(plots.alive.size).toBe(1)
  expect(chart.legend.querySelectorAll('button')).toHaveLength(1)
  chart.clear()
  expect(plots.alive.size).toBe(0)
  expect(chart.legend.children).toHaveLength(0)
  chart.draw(curve)
  expect(plots.alive.size).toBe(1)
  chart.destroy()
  expect(plots.alive.size).toBe(0)
})
