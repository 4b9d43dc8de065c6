// socket.io over WebSocket alone, with its in-memory adapter: `io.emit`, which encodes once.
const { createServer } = require('http');
const { Server } = require('socket.io');

const http = createServer();
const io = new Server(http, {
  transports: ['websocket'],
  perMessageDeflate: false,
  serveClient: false,
  // The crowd answers no pings of engine.io; a bench is shorter than this.
  pingInterval: 3600 * 1000,
});

io.on('connection', (socket) => {
  socket.on('publish', (text) => io.to('all').emit('event', text));
  socket.on('listen', () => {
    socket.join('all');
    socket.emit('ready');
  });
});
http.listen(0, '127.0.0.1', 1024, () => console.log(http.address().port));
