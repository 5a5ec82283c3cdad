import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { QRCode } from '../../Sources/BatonGateway/Web/demo/demo-qr.js';

// Each of these was read back with zxing-cpp when it was noted here.
const read = [
  ['http://gw', 21, '5ccc06ac243de5e2'],
  ['http://192.168.1.20:8080/demo-device.html?session=chat-1abcdef&name=your-phone&first=1', 37, '7dc5d0f4b821416f'],
  ['ä'.repeat(80), 49, '60a9d3e253dfe814'],
  ['x'.repeat(230), 53, 'd929204fc3c4bf6d'],
];

for (const [text, size, digest] of read) {
  test(`a QR code of ${size} modules`, () => {
    const modules = QRCode.modules(text);
    const picture = modules.map((row) => row.map(Number).join('')).join('\n');
    assert.equal(modules.length, size);
    assert.equal(createHash('sha256').update(picture).digest('hex').slice(0, 16), digest, picture);
  });
}

test('too long a text is refused', () => {
  assert.throws(() => QRCode.modules('x'.repeat(231)), RangeError);
});
