#!/usr/bin/env escript
%%! +S 1:1 +P 400000
%% The mailbox bench's Erlang side, on one scheduler because a Python process has one, too.
%% Usage: mailbox.escript tell|ask|spawn N     prints one number: operations per second, or for
%% spawn two: processes per second and bytes of memory for each idle process.
-mode(compile).

main(["tell", Count]) ->
    N = list_to_integer(Count),
    Self = self(),
    Pid = spawn(fun() -> count(N, Self) end),
    Start = erlang:monotonic_time(nanosecond),
    flood(Pid, N),
    receive done -> ok end,
    rate(N, Start);
main(["ask", Count]) ->
    N = list_to_integer(Count),
    Pid = spawn(fun echo/0),
    Self = self(),
    Askers = 50,
    Start = erlang:monotonic_time(nanosecond),
    [spawn(fun() -> ask(Pid, N div Askers), Self ! done end) || _ <- lists:seq(1, Askers)],
    [receive done -> ok end || _ <- lists:seq(1, Askers)],
    rate(N, Start);
main(["spawn", Count]) ->
    N = list_to_integer(Count),
    Before = erlang:memory(total),
    Self = self(),
    Start = erlang:monotonic_time(nanosecond),
    Pids = [spawn(fun() -> idle(Self) end) || _ <- lists:seq(1, N)],
    [Pid ! first || Pid <- Pids],
    [receive done -> ok end || _ <- lists:seq(1, N)],
    rate(N, Start),
    io:format("~w~n", [(erlang:memory(total) - Before) div N]).

rate(N, Start) ->
    io:format("~w~n", [N * 1000000000 div (erlang:monotonic_time(nanosecond) - Start)]).

flood(_, 0) -> ok;
flood(Pid, N) -> Pid ! N, flood(Pid, N - 1).

count(0, Parent) -> Parent ! done;
count(N, Parent) -> receive _ -> count(N - 1, Parent) end.

echo() -> receive {From, Message} -> From ! {self(), Message}, echo() end.

ask(_, 0) -> ok;
ask(Pid, N) ->
    Pid ! {self(), N},
    receive {Pid, N} -> ask(Pid, N - 1) end.

idle(Parent) -> receive first -> Parent ! done, idle(Parent) end.
