// npm `ws`: the loop of its documentation's broadcast. Text that comes in on /publish goes out to everybody else.
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false, backlog: 1024 });
const listening = new Set();

server.on('connection', (socket, request) => {
  socket.on('error', () => {});
  if (request.url === '/publish') {
    socket.on('message', (data) => {
      for (const each of listening) each.send(data, { binary: false });
    });
    return;
  }
  listening.add(socket);
  socket.on('close', () => listening.delete(socket));
  socket.send('ready');
});
server.on('listening', () => console.log(server.address().port));
