/** Two cells one upon the other: a slider between them, both beside each other, or what differs. */
import { el, fill } from '../lib/dom.mjs'
import { differenceOf } from './difference.mjs'

const WAYS = /** @type {const} */ (['slider', 'side by side', 'difference'])

/**
 * @typedef {{ name: string, url: string }} Shown
 * @param {Shown} first
 * @param {Shown} second
 * @param {() => void} onBack
 */
export function compareView(first, second, onBack) {
  const stage = el('div', { class: 'mj-compare' })
  const buttons = WAYS.map((way) => el('button', { class: 'mj-button', type: 'button', onclick: () => show(way) }, way))
  const bar = el('div', { class: 'mj-bar' }, el('button', { class: 'mj-button', type: 'button', onclick: onBack }, '← all cells'), ...buttons)

  /** @param {(typeof WAYS)[number]} way */
  function show(way) {
    buttons.forEach((button, at) => (button.ariaPressed = String(WAYS[at] === way)))
    const views = { slider: sliderView, 'side by side': besideView, difference: differenceView }
    fill(stage, views[way](first, second))
  }

  show('slider')
  return el('div', { class: 'mj-compare-view' }, bar, stage)
}

/** @param {Shown} shown @param {string} letter */
function figure(shown, letter) {
  return el('figure', {}, el('img', { src: shown.url, alt: shown.name }), el('figcaption', {}, `${letter}: ${shown.name}`))
}

/** @param {Shown} first @param {Shown} second */
function sliderView(first, second) {
  const over = el('img', { class: 'mj-over', src: first.url, alt: first.name })
  const under = el('img', { src: second.url, alt: second.name })
  const slider = el('input', { type: 'range', min: '0', max: '100', value: '50', ariaLabel: 'Border between the two cells' })
  const frame = el('div', { class: 'mj-slider' }, under, over, el('span', { class: 'mj-border' }), slider)
  slider.oninput = () => frame.style.setProperty('--at', `${slider.value}%`)
  return el('div', {}, frame, el('div', { class: 'mj-names' }, el('span', {}, `A: ${first.name}`), el('span', {}, `B: ${second.name}`)))
}

/** @param {Shown} first @param {Shown} second */
function besideView(first, second) {
  return el('div', { class: 'mj-beside' }, figure(first, 'A'), figure(second, 'B'))
}

/** @param {Shown} first @param {Shown} second */
function differenceView(first, second) {
  const canvas = el('canvas', { ariaLabel: 'Difference of the two cells' })
  const told = el('p', { class: 'mj-hint' }, 'comparing …')
  const gain = el('input', { type: 'range', min: '1', max: '20', value: '4', ariaLabel: 'Amplification' })
  const draw = () =>
    differenceOf(canvas, first.url, second.url, Number(gain.value)).then(
      (text) => fill(told, `${text} Amplified ${gain.value} times.`),
      (error) => fill(told, String(error.message ?? error))
    )
  gain.onchange = draw
  draw()
  return el('div', { class: 'mj-difference' }, canvas, el('label', {}, 'Amplification ', gain), told)
}
