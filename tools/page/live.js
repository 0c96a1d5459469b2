// The networks of this page, computed where you read it: lists of layers with the weights that the run has learned.
// A picture is a flat array of height x width pixels, from 0 (black) to 1 (white), inside a network with many numbers
// for each pixel, side by side (channels). Nothing is loaded, nothing is sent.
const live = document.querySelector('.live'), find = name => live.querySelector(`[data-${name}]`);
const kept = JSON.parse(find('kept').textContent);
// Numbers come in base64: a weight is a byte, of which 128 means 0, times the scale of the output that it belongs to.
const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
// Slide a square of weights (size x size x channels x filters) over a picture that is 0 beyond its edges. With step 2
// it paints every second pixel of every second row, the first of them at (down, right).
function slide(layer, source, weights, bias, { size, top = size - 1 >> 1, left = top, step = 1, down = 0, right = 0 }) {
  const [height, width, channels] = source.shape, [, columns, filters] = layer.shape;
  const input = source.values, sums = new Float32Array(filters);
  const met = new Float32Array(size * size * channels + 3), rows = new Int32Array(met.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    let count = 0;
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
      const row = y + i - top, column = x + j - left;
      if (row < 0 || row >= height || column < 0 || column >= width) continue;
      let number = (row * width + column) * channels, weight = (i * size + j) * channels * filters;
      for (const end = number + channels; number < end; number++, weight += filters)
        if (input[number] !== 0) [met[count], rows[count++]] = [input[number], weight]; // after a ReLU many are 0
    }
    met.fill(0, count, count + 3);
    sums.set(bias);
    for (let k = 0; k < count; k += 4) { // four at a time, which is twice as fast
      const a = met[k], b = met[k + 1], c = met[k + 2], d = met[k + 3];
      const ofA = rows[k], ofB = rows[k + 1], ofC = rows[k + 2], ofD = rows[k + 3];
      for (let filter = 0; filter < filters; filter++) sums[filter] += a * weights[ofA + filter]
        + b * weights[ofB + filter] + c * weights[ofC + filter] + d * weights[ofD + filter];
    }
    if (layer.relu) for (let filter = 0; filter < filters; filter++) sums[filter] = Math.max(sums[filter], 0);
    layer.values.set(sums, ((y * step + down) * columns + x * step + right) * filters);
  }
}
// After upsampling each pixel is there twice in a row, so three weights side by side meet only two different ones:
// (a, b, b) for an even pixel, (a, a, b) for an odd one. Weights that meet the same are added up first, so that 2 x 2
// do the work of 3 x 3: other sums for each of four kinds of pixels. A dense layer is a convolution over one pixel.
function convolve(layer, source) {
  const { size } = layer, scales = floats(layer.scales), bias = floats(layer.bias);
  const weights = Float32Array.from(bytes(layer.weights), (byte, nth) => (byte - 128) * scales[nth % scales.length]);
  if (!layer.upsampled) return () => slide(layer, source, weights, bias, { size });
  return [[0, 0], [0, 1], [1, 0], [1, 1]].map(([down, right]) => {
    const count = weights.length / 9, added = new Float32Array(4 * count), top = 1 - down, left = 1 - right;
    for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) for (let place = 0; place < count; place++)
      added[((i + top >> 1) * 2 + (j + left >> 1)) * count + place] += weights[(i * 3 + j) * count + place];
    return () => slide(layer, source, added, bias, { size: 2, top, left, step: 2, down, right });
  });
}
const pixel = ({ shape: [height, width, channels], values }, y, x, channel) =>
  Math.min(y, x) >= 0 && y < height && x < width ? values[(y * width + x) * channels + channel] : -Infinity;
const fill = ({ shape: [height, width, channels], values }, number) => () => {
  for (let y = 0, place = 0; y < height; y++) for (let x = 0; x < width; x++)
    for (let channel = 0; channel < channels; channel++, place++) values[place] = number(place, y, x, channel);
};
// For each kind of layer: from the layer and those before it to its work, in one step or some.
const copy = (layer, source) => fill(layer, place => source.values[place]);
const kinds = {
  'InputLayer': () => [], 'Flatten': copy, 'Reshape': copy, 'Dense': convolve, 'Conv2D': convolve,
  'UpSampling2D': (layer, source) => fill(layer, (_, y, x, channel) => pixel(source, y >> 1, x >> 1, channel)),
  'Cropping2D': (layer, source) => fill(layer, (_, y, x, each) => pixel(source, y + layer.top, x + layer.left, each)),
  'MaxPooling2D': (layer, source) => fill(layer, (_, y, x, channel) => Math.max(
    pixel(source, 2 * y, 2 * x, channel), pixel(source, 2 * y, 2 * x + 1, channel),
    pixel(source, 2 * y + 1, 2 * x, channel), pixel(source, 2 * y + 1, 2 * x + 1, channel))),
  'Add': (layer, one, other) => fill(layer, place => one.values[place] + other.values[place]),
};
const picture = () => ({ shape: [28, 28, 1], values: new Float32Array(784) });
const networks = Object.entries(kept.networks).map(([name, layers]) => {
  const answer = picture(), steps = layers.flatMap(layer => {
    layer.values = new Float32Array(layer.shape.reduce((one, other) => one * other));
    return kinds[layer.kind](layer, ...layer.inputs.map(input => layers.find(each => each.name === input)));
  });
  steps.push(fill(answer, place => 1 / (1 + Math.exp(-layers.at(-1).values[place])))); // from logits to pixels
  return { name, layers, steps, answer: answer.values };
});
// What you see: your picture, noise, and both together, clipped as in the notebook. PSNR: how close one is to yours.
const [drawn, noise, noisy] = [picture(), picture(), picture()];
const [drawing, factor, hidden] = ['drawing', 'factor', 'layer'].map(find), digits = bytes(kept.digits);
function paint(canvas, values, text, white = 1) {
  const image = new ImageData(canvas.width, canvas.width);
  values.forEach((value, place) => image.data.set([...Array(3).fill(255 * value / white), 255], 4 * place));
  canvas.getContext('2d').putImageData(image, 0, 0);
  canvas.parentElement.querySelector('span').textContent = text;
}
function psnr(values) {
  const error = values.reduce((sum, value, place) => sum + (value - drawn.values[place]) ** 2, 0) / 784;
  return !drawn.values.some(Boolean) ? 'no digit' : error ? `${(-10 * Math.log10(error)).toFixed(1)} dB` : 'the same';
}
function show({ name, layers, answer }) {
  paint(find(`network="${name}"`), answer, psnr(answer));
  const layer = layers.find(each => each.name === hidden?.dataset.layer), most = layer && Math.max(...layer.values);
  if (layer) paint(hidden, layer.values, `0 (black) to ${most.toFixed(1)}`, most || 1);
}
// Your stroke is painted at once. The networks follow in steps, some in each frame, so that a finger never waits.
// If you go on meanwhile, they finish, and then begin again with the newest picture.
const work = networks.flatMap(each => [() => each.layers[0].values.set(noisy.values), ...each.steps, () => show(each)]);
let step = work.length, again = false, shown = -784, last = null, pause;
function change() {
  fill(noisy, place => Math.min(Math.max(drawn.values[place] + factor.value * noise.values[place], 0), 1))();
  paint(drawing, drawn.values, '');
  paint(find('noisy'), noisy.values, `factor ${factor.value}: ${psnr(noisy.values)}`);
  if (step === work.length && !again) requestAnimationFrame(frame);
  again = true;
}
function frame() {
  if (step === work.length) [step, again] = [0, false];
  for (const end = performance.now() + 10; step < work.length && performance.now() < end; step++) work[step]();
  if (step < work.length || again) requestAnimationFrame(frame);
  clearTimeout(pause);
  const say = () => networks.map(({ name, answer }) => `${name}: ${psnr(answer)}`).join(', ');
  pause = setTimeout(() => { find('status').textContent = say(); }, 800); // once you pause, not at each stroke
}
function stroke(toX, toY) { // 2.5 pixels wide and soft, like those of MNIST
  const [fromX, fromY] = last ?? [toX, toY], right = toX - fromX, down = toY - fromY;
  fill(drawn, (place, row, column) => {
    const y = row + 0.5 - fromY, x = column + 0.5 - fromX;
    const along = Math.min(Math.max((x * right + y * down) / (right ** 2 + down ** 2 || 1), 0), 1);
    return Math.max(drawn.values[place], Math.min(1.75 - Math.hypot(x - along * right, y - along * down), 1));
  })();
  last = [toX, toY];
}
function draw(event) {
  const { left, top, width } = drawing.getBoundingClientRect(), scale = 28 / width;
  for (const { clientX, clientY } of [...event.getCoalescedEvents?.() ?? [], event]) // also those between two frames
    stroke((clientX - left) * scale, (clientY - top) * scale);
  change();
  drawing.setPointerCapture(event.pointerId); // the stroke goes on where it leaves the picture and comes back
}
function move(right, down) {
  const before = { ...drawn, values: drawn.values.slice() };
  fill(drawn, (_, y, x) => Math.max(pixel(before, y - down, x - right, 0), 0))();
}
const actions = {
  ArrowLeft: () => move(-1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1), ArrowRight: () => move(1, 0),
  clear: () => drawn.values.fill(0),
  noise: fill(noise, () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random())),
  digit: () => { shown += 784; fill(drawn, place => digits[(shown + place) % digits.length] / 255)(); },
};
const act = action => { actions[action](); change(); };
live.onclick = ({ target }) => target.dataset.action && act(target.dataset.action);
factor.oninput = change;
drawing.onkeydown = event => {
  if (!event.key.startsWith('Arrow') || event.altKey) return;
  event.preventDefault(); // the page does not scroll
  act(event.key);
};
drawing.onpointerdown = event => event.isPrimary && !event.button && draw(event); // one finger, the main button
drawing.onpointermove = event => event.isPrimary && last && draw(event);
drawing.onpointerup = drawing.onpointercancel = () => { last = null; };
live.run = (name, pixels) => { // asks a network about any 784 pixels
  const { layers, steps, answer } = networks.find(each => each.name === name);
  layers[0].values.set(pixels);
  for (const each of steps) each();
  if (step < work.length) step = 0; // what is under way begins again
  return [...answer];
};
actions.noise();
act('digit');
for (const each of work) each();
live.hidden = false; // not before, so that there is no empty box where something fails
