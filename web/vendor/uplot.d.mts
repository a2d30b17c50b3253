// the library's own types are for another kind of module: to our checks it is of any type
declare const uPlot: any
export default uPlot
