#!/usr/bin/env escript
%% -*- erlang -*-
%% Runs scripted crashes against OTP's own supervisor and prints what happened.
%%
%%   escript supervisor.escript SCENARIOS
%%
%% SCENARIOS is a file of Erlang terms: {Id, Tree, Steps}.
%%   Tree   {sup, Name, Strategy, Intensity, Period, Restart, [Tree]} | {worker, Name, Restart, quick | stubborn}
%%   Steps  {crash, Name} | {'end', Name} | {wait, Milliseconds}; the top supervisor is stopped after the last one
%% For each scenario one line: Id, a tab, and the events with commas between them:
%%   start N      a worker was started, or a supervisor with all of its children
%%   crash N      a worker is about to crash (normal N: to end)
%%   shutdown N   a quick worker was asked to stop and does. A stubborn one is killed, without a word.
%%   give_up      the top supervisor ended by itself; the steps that remain are not taken
%% Scenarios run side by side; each has a log of its own, in the order of what happened.
-mode(compile).
-export([main/1, init/1, worker_start/4, worker_init/5, sup_start/2]).

-define(STUBBORN_MS, 100).
-define(QUIET_MS, 15).

main([File]) ->
    logger:set_primary_config(level, none),
    {ok, Scenarios} = file:consult(File),
    Me = self(),
    [spawn(fun() -> Me ! {done, Id, run(Tree, Steps)} end) || {Id, Tree, Steps} <- Scenarios],
    [receive {done, Id, Log} -> io:format("~s\t~s~n", [Id, lists:join(",", Log)]) end || {Id, _, _} <- Scenarios],
    ok.

run(Tree, Steps) ->
    process_flag(trap_exit, true),
    Log = spawn_link(fun() -> log([], #{}) end),
    {ok, Top} = sup_start(Tree, Log),
    unlink(Log),
    settle(Top, Log),
    case steps(Steps, Top, Log) of
        gave_up ->
            note(Log, "give_up");
        done ->
            exit(Top, shutdown),
            receive {'EXIT', Top, _} -> ok end
    end,
    call(Log, all).

steps([], _, _) -> done;
steps([Step | Rest], Top, Log) ->
    take(Step, Log),
    case settle(Top, Log) of
        gave_up -> gave_up;
        settled -> steps(Rest, Top, Log)
    end.

take({wait, Milliseconds}, _) -> timer:sleep(Milliseconds);
take({What, Name}, Log) ->
    case call(Log, {pid, Name}) of
        undefined -> ok;
        Pid ->
            Ref = monitor(process, Pid),
            Pid ! What,
            receive {'DOWN', Ref, process, Pid, _} -> ok end
    end.

%% Until nothing was logged for a while and every supervisor has answered, so has nothing left to do.
settle(Top, Log) -> settle(Top, Log, -1, 0).

settle(Top, Log, Before, Times) ->
    receive
        {'EXIT', Top, _} -> gave_up
    after ?QUIET_MS ->
        answered(Top),
        case call(Log, count) of
            Before when Times >= 2 -> settled;
            Before -> settle(Top, Log, Before, Times + 1);
            Now -> settle(Top, Log, Now, 0)
        end
    end.

answered(Sup) ->
    try supervisor:which_children(Sup) of
        Children -> [answered(Pid) || {_, Pid, supervisor, _} <- Children, is_pid(Pid)]
    catch
        exit:_ -> ok
    end.

%% ---------------------------------------------------------------- the tree

sup_start({sup, Name, Strategy, Intensity, Period, _, Children}, Log) ->
    Started = supervisor:start_link(?MODULE, {Strategy, Intensity, Period, Children, Log}),
    note(Log, "start " ++ Name),
    Started.

init({Strategy, Intensity, Period, Children, Log}) ->
    Flags = #{strategy => Strategy, intensity => Intensity, period => Period},
    {ok, {Flags, [spec(Child, Log) || Child <- Children]}}.

spec({sup, Name, _, _, _, Restart, _} = Tree, Log) ->
    #{id => Name, start => {?MODULE, sup_start, [Tree, Log]}, restart => Restart, shutdown => infinity,
      type => supervisor};
spec({worker, Name, Restart, Kind}, Log) ->
    #{id => Name, start => {?MODULE, worker_start, [Name, Restart, Kind, Log]}, restart => Restart,
      shutdown => case Kind of stubborn -> ?STUBBORN_MS; quick -> 5000 end}.

worker_start(Name, Restart, Kind, Log) ->
    proc_lib:start_link(?MODULE, worker_init, [self(), Name, Restart, Kind, Log]).

worker_init(Parent, Name, _Restart, Kind, Log) ->
    process_flag(trap_exit, true),
    call(Log, {started, Name, self()}),
    proc_lib:init_ack(Parent, {ok, self()}),
    worker(Parent, Name, Kind, Log).

worker(Parent, Name, Kind, Log) ->
    receive
        crash -> note(Log, "crash " ++ Name), exit(crash);
        'end' -> note(Log, "normal " ++ Name), exit(normal);
        {'EXIT', Parent, Reason} when Kind =:= quick -> note(Log, "shutdown " ++ Name), exit(Reason);
        {'EXIT', Parent, _} -> worker(Parent, Name, Kind, Log)
    end.

%% ---------------------------------------------------------------- the log

note(Log, Text) -> call(Log, {note, Text}).

call(Log, Request) ->
    Ref = make_ref(),
    Log ! {self(), Ref, Request},
    receive {Ref, Answer} -> Answer end.

log(Lines, Pids) ->
    receive
        {From, Ref, {note, Text}} -> From ! {Ref, ok}, log([Text | Lines], Pids);
        {From, Ref, {started, Name, Pid}} -> From ! {Ref, ok}, log(["start " ++ Name | Lines], Pids#{Name => Pid});
        {From, Ref, {pid, Name}} ->
            Pid = maps:get(Name, Pids, undefined),
            From ! {Ref, case is_pid(Pid) andalso is_process_alive(Pid) of true -> Pid; false -> undefined end},
            log(Lines, Pids);
        {From, Ref, count} -> From ! {Ref, length(Lines)}, log(Lines, Pids);
        {From, Ref, all} -> From ! {Ref, lists:reverse(Lines)}
    end.
